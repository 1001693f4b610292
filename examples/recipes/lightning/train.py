"""A Lightning trainer as people have it: a network learns from a fixed one. The marked lines are for a sweep.

python examples/recipes/lightning/train.py --width 64 --lr 0.01
"""

import argparse

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hptransfer.integrations.lightning import TrialCallback, last_checkpoint  # 1

INPUTS = 16


def network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh(), nn.Linear(width, 1))


class Student(lightning.LightningModule):
    def __init__(self, width: int, lr: float, steps: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = network(width)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = nn.functional.mse_loss(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.hparams.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lightning.seed_everything(0)
    teacher = network(32)
    lightning.seed_everything(1 + args.seed)
    points = torch.randn(1600, INPUTS)
    data = DataLoader(TensorDataset(points, teacher(points).detach()), batch_size=32, shuffle=True)
    trainer = lightning.Trainer(
        max_steps=args.steps, log_every_n_steps=10, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, callbacks=[TrialCallback()],  # 2
    )  # fmt: skip
    trainer.fit(Student(args.width, args.lr, args.steps), data, ckpt_path=last_checkpoint())  # 3


if __name__ == "__main__":
    main()
