"""Lion: the sign of a momentum (arXiv:2302.06675), from the pytorch-optimizer package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.parameterizations._rules import Rule
from hptransfer.training.optimizers._base import OPTIMIZERS, OptimizerConfig


@OPTIMIZERS.register("lion")
@dataclass(kw_only=True)
class LionConfig(OptimizerConfig):
    name: str = "lion"
    lr: float = 2.0**-9
    """Peak learning rate at the base; above 0."""
    beta1: float = 0.9
    """Share of the memory in the step, in [0, 1)."""
    beta2: float = 0.99
    """Memory of the gradient, in [0, 1)."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "beta1", "beta2")

    def more(self, rule: Rule) -> dict[str, float]:
        return {"beta1": rule.budget.beta(self.beta1), "beta2": rule.budget.beta(self.beta2)}

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        from pytorch_optimizer import Lion

        torch_groups = [
            {
                "params": group["params"],
                "lr": group["lr"],
                "betas": (group["beta1"], group["beta2"]),
                "weight_decay": self.coupled(group),
            }
            for group in groups
        ]
        return [Lion(torch_groups)]
