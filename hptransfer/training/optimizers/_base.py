"""What an optimizer's configuration answers: its update law, its group settings, the torch object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.core.registry import Registry
from hptransfer.parameterizations._base import UpdateLaw
from hptransfer.parameterizations._rules import Rule


@dataclass(kw_only=True)
class OptimizerConfig(ABC):
    """Settings of one optimizer at the base width."""

    name: str
    lr: float

    @abstractmethod
    def check(self, place: str) -> None:
        """
        Raises:
            ConfigError: a value breaks a rule; `place` is where the settings stand.
        """

    @abstractmethod
    def law(self) -> UpdateLaw:
        """How the raw step scales."""

    @abstractmethod
    def group(self, rule: Rule) -> dict[str, float]:
        """Settings of a parameter group under a rule; `lr` is the peak of the schedule."""

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over groups that hold `params` and what `group` gave."""


OPTIMIZERS: Registry[type[OptimizerConfig]] = Registry("optimizer", "hptransfer.training.optimizers")
