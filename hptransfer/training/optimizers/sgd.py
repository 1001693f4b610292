"""SGD with momentum (torch's), with AdamW's decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.parameterizations import RAW, Role, Scaling, TensorRule, UpdateLaw
from hptransfer.training.optimizers import OPTIMIZERS, DecoupledDecay, OptimizerConfig


@OPTIMIZERS.register("sgd")
@dataclass(kw_only=True)
class SgdConfig(OptimizerConfig):
    """Settings of SGD."""

    name: str = "sgd"
    lr: float = 0.1
    """Peak learning rate at the base; above 0."""
    momentum: float = 0.9
    """Memory of the gradient, in [0, 1)."""
    nesterov: bool = False

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "momentum")

    def law(self, role: Role) -> UpdateLaw:
        return RAW

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        return {"momentum": 1}

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        torch_groups = [
            {
                "params": group["params"],
                "lr": group["lr"],
                "momentum": group["momentum"],
                "nesterov": self.nesterov and group["momentum"] > 0,
                "decoupled": self.coupled(group),
            }
            for group in groups
        ]
        return [Sgd(torch_groups, foreach=True)]


class Sgd(DecoupledDecay, torch.optim.SGD):
    """SGD with AdamW's weight decay."""
