"""Signum: the sign of a momentum (arXiv:1802.04434)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.parameterizations import Scaling, TensorRule
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig


@OPTIMIZERS.register("signum")
@dataclass(kw_only=True)
class SignumConfig(OptimizerConfig):
    """Settings in the base run; the sign's update law is the default one, entrywise."""

    name: str = "signum"
    lr: float = 2.0**-9
    """Peak learning rate at the base; above 0."""
    beta: float = 0.9
    """Share of the momentum that is kept, in [0, 1)."""

    def check(self, place: str) -> None:
        """Raise ConfigError for a value that breaks a rule."""
        super().check(place)
        self.check_memories(place, "beta")

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        """Return the scalings of settings other than `lr` and `weight_decay`."""
        return {"beta": rule.budget.memory}

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        """Return the optimizer over all groups."""
        return [
            Signum(
                {"params": group["params"], "lr": group["lr"], "beta": group["beta"], "decay": self.coupled(group)}
                for group in groups
            )
        ]


class Signum(torch.optim.Optimizer):
    """The optimizer itself."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        for group in self.param_groups:
            for weight in group["params"]:
                memory = self.state[weight]
                if "momentum" not in memory:
                    memory["momentum"] = torch.zeros_like(weight)
                memory["momentum"].lerp_(weight.grad, 1 - group["beta"])
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.sub_(memory["momentum"].sign(), alpha=group["lr"])
