"""AdamW: Adam with decoupled weight decay (arXiv:1711.05101), torch's fused version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import UpdateLaw
from hptransfer.parameterizations._rules import Rule
from hptransfer.training.optimizers._base import OPTIMIZERS, OptimizerConfig


@OPTIMIZERS.register("adamw")
@dataclass(kw_only=True)
class AdamW(OptimizerConfig):
    name: str = "adamw"
    lr: float = 2.0**-6
    """Peak learning rate at the base width; above 0."""
    beta1: float = 0.9
    """Memory of the mean gradient, in [0, 1)."""
    beta2: float = 0.95
    """Memory of the squared gradient, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the squared gradient, at the base width; at least 0."""
    weight_decay: float = 0.0
    """Coupled: a step removes lr * weight_decay of a weight, at the base width; at least 0."""

    def check(self, place: str) -> None:
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"{place}.lr must be above 0 and finite, got {self.lr}; typical values are 1e-4 to 1e-1")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be in [0, 1), got {getattr(self, key)}")
        for key in ("eps", "weight_decay"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigError(f"{place}.{key} must be at least 0 and finite, got {getattr(self, key)}")

    def law(self) -> UpdateLaw:
        return UpdateLaw(gradient=0)

    def group(self, rule: Rule) -> dict[str, float]:
        return {
            "lr": self.lr * rule.learning_rate,
            "eps": self.eps * rule.epsilon,
            "weight_decay": self.weight_decay * rule.weight_decay,
        }

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=(self.beta1, self.beta2), fused=True)
