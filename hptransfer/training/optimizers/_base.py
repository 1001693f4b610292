"""Base class of optimizers' configurations, and their registry."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.registry import Registry
from hptransfer.parameterizations import ENTRYWISE, Role, Scaling, TensorRule, UpdateLaw, scaled, timescale

DECAYS = ("default", "coupled", "independent", "timescale")
COUPLED = ("default", "coupled")


@dataclass(kw_only=True)
class OptimizerConfig(ABC):
    """Settings of one optimizer in the base run.

    Attributes:
        lr: peak learning rate.
        weight_decay: weight decay in the unit that `decay` sets.
        decay: "coupled": a step removes lr * weight_decay of a weight. "independent": it removes weight_decay times the
            schedule's factor. "timescale": weights forget over the share weight_decay of the run's steps
            (arXiv:2405.13698), 0 for never. "default": the parameterization's, coupled except for umup (independent).
    """

    recordable: ClassVar[bool] = False
    """True if all that changes between steps is in tensors on the GPU, so that a CUDA graph can hold a step."""

    name: str
    lr: float
    weight_decay: float = 0.0
    decay: str = "default"

    def check(self, place: str) -> None:
        """Check the settings.

        Args:
            place: prefix of the settings' keys in messages.

        Raises:
            ConfigError: a value breaks a rule.
        """
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"{place}.lr must be above 0 and finite, got {self.lr}; typical values are 1e-4 to 1e-1")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"{place}.weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if self.decay == "l2":
            raise ConfigError(
                f"{place}.decay=l2 adds decay to the gradient, where the two compete, but gradients shrink as a "
                f"layer widens: a value that is right at one width is wrong at the next; set it to "
                f"{', '.join(DECAYS[:-1])} or {DECAYS[-1]}"
            )
        if self.decay not in DECAYS:
            raise ConfigError(f"{place}.decay: {unknown('kind of weight decay', self.decay, DECAYS)}")

    def check_memories(self, place: str, *keys: str) -> None:
        """Raise ConfigError for the first of these settings outside [0, 1)."""
        for key in keys:
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be in [0, 1), got {getattr(self, key)}")

    def check_nonnegative(self, place: str, *keys: str) -> None:
        """Raise ConfigError for the first of these settings below 0 or infinite."""
        for key in keys:
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"{place}.{key} must be at least 0 and finite, got {getattr(self, key)}")

    def law(self, role: Role) -> UpdateLaw:
        """Return the update law of a role's tensors; entrywise by default."""
        return ENTRYWISE

    def settings(self, rule: TensorRule, steps: int) -> dict[str, float]:
        """Return a tensor's settings under a rule.

        `weight_decay` is in the unit of `decay`; a timescale is converted to independent decay.
        """
        return {key: scaled(getattr(self, key), scaling) for key, scaling in self.scalings(rule, steps).items()}

    def scalings(self, rule: TensorRule, steps: int) -> dict[str, Scaling]:
        """Return the scaling of every setting under a rule."""
        decay: Scaling = rule.weight_decay if self.decay in COUPLED else rule.budget.ratio
        if self.decay == "timescale":
            decay = timescale(steps)
        return {"lr": rule.learning_rate, "weight_decay": decay, **self.other_scalings(rule)}

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        """Return the scalings of settings other than `lr` and `weight_decay`.

        The scaling of a setting that is the same in all runs is 1.
        """
        return {}

    def coupled(self, settings: dict[str, float]) -> float:
        """Return the decay for torch's optimizers, which multiply it by lr."""
        return settings["weight_decay"] / (1.0 if self.decay in COUPLED else settings["lr"])

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        """Build the optimizers over all groups.

        Args:
            groups: groups with `params`, their `layers` and `role`, and the values of `settings`.
        """


@dataclass(kw_only=True)
class TwoBetasConfig(OptimizerConfig):
    """Settings of an optimizer with only the memories `beta1` and `beta2`."""

    beta1: float = 0.9
    beta2: float = 0.95

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "beta1", "beta2")

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        return {"beta1": rule.budget.memory, "beta2": rule.budget.memory}

    def torch_groups(self, groups: list[dict[str, Any]], decay: str) -> list[dict[str, Any]]:
        """Return groups for torch's optimizers, coupled decay under the key `decay`."""
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
    """Mixin that decays weights as AdamW does.

    Weights decay by `lr * decoupled` of their group. The mixin comes before the optimizer's class.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group["decoupled"]:
                torch._foreach_mul_(group["params"], 1 - group["lr"] * group["decoupled"])
        return super().step(closure)


OPTIMIZERS: Registry[type[OptimizerConfig]] = Registry("optimizer", "hptransfer.training.optimizers")
