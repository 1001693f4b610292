"""A trainer on several processes: DistributedDataParallel on gloo, so that it runs without a GPU.

torchrun --standalone --nproc-per-node 2 examples/ddp_trainer.py --width 64 --lr 0.01
"""

import argparse

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import hptransfer

INPUTS = 16


def network(width: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(INPUTS, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    teacher = network(32)
    torch.manual_seed(1 + args.seed)
    model = DistributedDataParallel(network(args.width))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, args.steps)
    generator = torch.Generator().manual_seed(1000 * args.seed + dist.get_rank())
    for step in range(1, args.steps + 1):
        points = torch.randn(32, INPUTS, generator=generator)
        with torch.no_grad():
            labels = teacher(points)
        loss = torch.nn.functional.mse_loss(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)
            hptransfer.report(step=step, loss=mean, processes=dist.get_world_size())  # of the first process alone
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
