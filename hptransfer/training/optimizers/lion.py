"""Lion: the sign of a momentum (arXiv:2302.06675), from the pytorch-optimizer package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.training.optimizers import OPTIMIZERS, TwoBetasConfig


@OPTIMIZERS.register("lion")
@dataclass(kw_only=True)
class LionConfig(TwoBetasConfig):
    """Settings of Lion."""

    name: str = "lion"
    lr: float = 2.0**-9
    """Peak learning rate at the base; above 0."""
    beta1: float = 0.9
    """Share of the momentum in the step, in [0, 1)."""
    beta2: float = 0.99
    """Memory of the gradient, in [0, 1)."""

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        from pytorch_optimizer import Lion

        return [Lion(self.torch_groups(groups, "weight_decay"))]
