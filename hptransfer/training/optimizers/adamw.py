"""AdamW: Adam with decoupled weight decay (arXiv:1711.05101), torch's fused version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hptransfer.parameterizations import Scaling, TensorRule
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig


@dataclass(kw_only=True)
class AdamSettings(OptimizerConfig):
    """Settings of AdamW and of optimizers that leave some tensors to it."""

    beta1: float = 0.9
    """Memory of the mean gradient, in [0, 1)."""
    beta2: float = 0.95
    """Memory of the squared gradient, in [0, 1)."""
    eps: float = 1e-8
    """Epsilon added to the root of the squared gradient, in the base run; at least 0."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "beta1", "beta2")
        self.check_nonnegative(place, "eps")

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        return {"eps": rule.epsilon, "beta1": rule.budget.memory, "beta2": rule.budget.memory}

    def adamw(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build torch's AdamW over groups.

        On a GPU it accepts learning rates that are tensors there (`capturable`).
        """
        on_gpu = any(view.is_cuda for group in groups for view in group["params"])
        torch_groups = [
            {
                "params": group["params"],
                "lr": group["lr"],
                "eps": group["eps"],
                "betas": (group["beta1"], group["beta2"]),
                "weight_decay": self.coupled(group),
            }
            for group in groups
        ]
        return torch.optim.AdamW(torch_groups, fused=True, capturable=on_gpu)


@OPTIMIZERS.register("adamw")
@dataclass(kw_only=True)
class AdamWConfig(AdamSettings):
    """Settings of AdamW."""

    recordable: ClassVar[bool] = True

    name: str = "adamw"
    lr: float = 2.0**-6
    """Peak learning rate at the base; above 0."""

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        return [self.adamw(groups)]
