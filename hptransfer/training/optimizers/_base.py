"""What an optimizer's configuration answers: its update law, its settings by group, the torch objects."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.registry import Registry
from hptransfer.parameterizations import ENTRYWISE, Role, TensorRule, UpdateLaw

DECAYS = ("default", "coupled", "independent", "timescale")
COUPLED = ("default", "coupled")


@dataclass(kw_only=True)
class OptimizerConfig(ABC):
    """Settings of one optimizer in the base run.

    Fields that all have: `lr`, the peak; `weight_decay`, meant as `decay` says: "coupled", a step removes
    lr * weight_decay of a weight; "independent", weight_decay times the schedule's factor; "timescale",
    weights forget over weight_decay of the run's steps (arXiv:2405.13698), 0 for never; "default", as the
    parameterization means it: coupled, but independent for umup.
    """

    recordable: ClassVar[bool] = False
    """Whether what changes from step to step stands in tensors on the GPU, so that a CUDA graph can hold a step."""

    name: str
    lr: float
    weight_decay: float = 0.0
    decay: str = "default"

    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: a value breaks a rule; `place` is where the settings stand.
        """
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"{place}.lr must be above 0 and finite, got {self.lr}; typical values are 1e-4 to 1e-1")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"{place}.weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if self.decay == "l2":
            raise ConfigError(
                f"{place}.decay=l2 adds decay to the gradient, where the two compete, but gradients shrink as a "
                f"layer widens: what is right at one width is wrong at the next; set it to {', '.join(DECAYS[:-1])} "
                f"or {DECAYS[-1]}"
            )
        if self.decay not in DECAYS:
            raise ConfigError(f"{place}.decay: {unknown('kind of weight decay', self.decay, DECAYS)}")

    def check_memories(self, place: str, *keys: str) -> None:
        """Raises ConfigError for the first of these settings outside [0, 1)."""
        for key in keys:
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be in [0, 1), got {getattr(self, key)}")

    def check_nonnegative(self, place: str, *keys: str) -> None:
        """Raises ConfigError for the first of these settings below 0 or infinite."""
        for key in keys:
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"{place}.{key} must be at least 0 and finite, got {getattr(self, key)}")

    def law(self, role: Role) -> UpdateLaw:
        """How the raw step of a role's tensors scales: entrywise, unless the optimizer says otherwise."""
        return ENTRYWISE

    def settings(self, rule: TensorRule, steps: int) -> dict[str, float]:
        """Settings of a tensor under a rule, `weight_decay` as `decay` means it, but timescales as independent."""
        factor = rule.weight_decay if self.decay in COUPLED else rule.budget.ratio
        decay = self.weight_decay * factor
        if self.decay == "timescale" and self.weight_decay:
            decay = 1 / (self.weight_decay * steps)
        return {"lr": self.lr * rule.learning_rate, "weight_decay": decay, **self.more(rule)}

    def more(self, rule: TensorRule) -> dict[str, float]:
        """Settings beside `lr` and `weight_decay`."""
        return {}

    def coupled(self, settings: dict[str, float]) -> float:
        """The decay of torch's optimizers, which multiply it by the learning rate."""
        return settings["weight_decay"] / (1.0 if self.decay in COUPLED else settings["lr"])

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        """The optimizers over all groups.

        Args:
            groups: each with `params`, their `layers`, the `role`, and what `settings` gave.
        """


@dataclass(kw_only=True)
class TwoBetasConfig(OptimizerConfig):
    """An optimizer with two memories, `beta1` and `beta2`, and no further settings."""

    beta1: float = 0.9
    beta2: float = 0.95

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "beta1", "beta2")

    def more(self, rule: TensorRule) -> dict[str, float]:
        return {"beta1": rule.budget.beta(self.beta1), "beta2": rule.budget.beta(self.beta2)}

    def torch_groups(self, groups: list[dict[str, Any]], decay: str) -> list[dict[str, Any]]:
        """Groups as torch's optimizers take them, coupled decay under the key `decay`."""
        return [
            {
                "params": group["params"],
                "lr": group["lr"],
                "betas": (group["beta1"], group["beta2"]),
                decay: self.coupled(group),
            }
            for group in groups
        ]


class DecoupledDecay(torch.optim.Optimizer):
    """Mixed in before an optimizer, it decays weights as AdamW does, by `lr * decoupled` of its groups."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group["decoupled"]:
                torch._foreach_mul_(group["params"], 1 - group["lr"] * group["decoupled"])
        return super().step(closure)


OPTIMIZERS: Registry[type[OptimizerConfig]] = Registry("optimizer", "hptransfer.training.optimizers")
