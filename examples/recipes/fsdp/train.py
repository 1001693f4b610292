"""FSDP2 under torchrun as people have it; on gloo, so that it runs without a GPU. Marked lines serve a sweep.

torchrun --standalone --nproc-per-node 2 examples/recipes/fsdp/train.py --width 64 --lr 0.01 --steps 100 --folder out
"""

import argparse
import shutil
import signal
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import hptransfer  # 1

parser = argparse.ArgumentParser()
for flag, kind in (("--width", int), ("--lr", float), ("--steps", int), ("--folder", Path)):
    parser.add_argument(flag, type=kind, required=True)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(args.seed)
hidden = nn.Linear(args.width, args.width)
model = nn.Sequential(nn.Linear(16, args.width), nn.Tanh(), hidden, nn.Tanh(), nn.Linear(args.width, 1))
mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
for module in (hidden, model):
    fully_shard(module, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
# The metadata of a checkpoint are written last: one that was cut off has none.
last = max((int(path.parent.name) for path in args.folder.glob("*/.metadata")), default=0)
if last:
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=args.folder / str(last))
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
stop = torch.zeros(1)
signal.signal(signal.SIGTERM, lambda *_: stop.fill_(1))  # 2
for step in range(last + 1, args.steps + 1):
    points = torch.randn(32, 16, generator=torch.Generator().manual_seed(2 * step + dist.get_rank()))
    loss = nn.functional.mse_loss(model(points), points.sin().sum(1, keepdim=True))
    optimizer.param_groups[0]["lr"] = args.lr * (1 - step / (args.steps + 1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        hptransfer.report(step=step, loss=mean)  # 3: of the first process alone
    dist.all_reduce(stopping := stop.clone())  # 4: all processes stop after the same step
    if stopping.any() or step % 50 == 0:
        weights, moments = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=args.folder / str(step))
    if stopping.any():
        sys.exit(1)
shutil.rmtree(args.folder, ignore_errors=True)
dist.destroy_process_group()
