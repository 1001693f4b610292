"""Adafactor with parameter scaling (arXiv:1804.04235), from the pytorch-optimizer package.

Its learning-rate schedule (relative_step) is off: it caps the rate, so that higher ones have no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.parameterizations import RELATIVE, Role, Scaling, TensorRule, UpdateLaw
from hptransfer.training.optimizers import OPTIMIZERS, DecoupledDecay, OptimizerConfig


@OPTIMIZERS.register("adafactor")
@dataclass(kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Settings of Adafactor."""

    name: str = "adafactor"
    lr: float = 2.0**-5
    """Peak step relative to the weights' root mean square; above 0."""
    beta2: float = 0.999
    """Longest memory of the squared gradient, in [0, 1); at step t it is at most 1 - t^-0.8."""
    floor: float = 1e-3
    """Lower limit on the weights' root mean square that scales a step. A readout whose initial spread falls below it
    with width no longer follows the rule: lower it, or take a form of muP with a readout multiplier."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "beta2")
        self.check_nonnegative(place, "floor")

    def law(self, role: Role) -> UpdateLaw:
        return RELATIVE

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        return {"beta2": rule.budget.memory, "floor": 1}

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        from pytorch_optimizer import AdaFactor

        class Adafactor(DecoupledDecay, AdaFactor):
            pass

        def adafactor(floor: float) -> torch.optim.Optimizer:
            torch_groups = [
                {
                    "params": group["params"],
                    "lr": group["lr"],
                    "betas": (None, group["beta2"]),
                    "decoupled": self.coupled(group),
                }
                for group in groups
                if group["floor"] == floor
            ]
            return Adafactor(torch_groups, relative_step=False, scale_parameter=True, eps2=floor)

        # The package has one floor per optimizer; trials of a stack may have different ones.
        return [adafactor(floor) for floor in sorted({group["floor"] for group in groups})]
