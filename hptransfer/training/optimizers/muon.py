"""Muon: orthogonalized momentum for hidden matrices, AdamW for the rest.

The implementation is torch's. Steps are scaled by 0.2 sqrt(max(fan-in, fan-out)), so that AdamW's learning rates fit
(arXiv:2502.16982).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import ENTRYWISE, SPECTRAL_RMS, Role, Scaling, TensorRule, UpdateLaw
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.optimizers.adamw import AdamSettings

WIDTH_RULES = {"spectral": SPECTRAL_RMS, "adamw": ENTRYWISE}


@OPTIMIZERS.register("muon")
@dataclass(kw_only=True)
class MuonConfig(AdamSettings):
    """Settings of Muon."""

    name: str = "muon"
    lr: float = 2.0**-6
    """Peak learning rate at the base, of hidden matrices and of the rest; above 0."""
    momentum: float = 0.95
    """Memory of the gradient of hidden matrices, in [0, 1)."""
    width_rule: str = "spectral"
    """Scaling of the rate of hidden matrices with width n: spectral (n^-1/2, which keeps the change of a layer's
    output) or adamw (n^-1, as used up to 3.7 billion parameters, arXiv:2505.02222)."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "momentum")
        if self.width_rule not in WIDTH_RULES:
            raise ConfigError(f"{place}.width_rule: {unknown('width rule', self.width_rule, WIDTH_RULES)}")

    def law(self, role: Role) -> UpdateLaw:
        return WIDTH_RULES[self.width_rule] if role is Role.HIDDEN else ENTRYWISE

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        return {"momentum": rule.budget.memory} if rule.role is Role.HIDDEN else super().other_scalings(rule)

    def check_matrices(self, groups: list[dict[str, Any]]) -> None:
        """Raise ConfigError for a hidden tensor that is not a matrix.

        Only matrices can be made orthogonal.
        """
        for view in (view for group in groups for view in group["params"]):
            if view.dim() != 2:
                raise ConfigError(
                    f"run.optimizer=muon makes matrices orthogonal, but a parameter of role hidden has shape "
                    f"{tuple(view.shape)}; give it the role vector, which AdamW trains, or take run/optimizer=adamw"
                )

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        matrices = [group for group in groups if group["role"] is Role.HIDDEN]
        self.check_matrices(matrices)
        hidden = [
            {
                "params": group["params"],
                "lr": group["lr"],
                "momentum": group["momentum"],
                "weight_decay": self.coupled(group),
            }
            for group in matrices
        ]
        for_adamw = [group for group in groups if group["role"] is not Role.HIDDEN]
        muon = [torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw")] if hidden else []
        return [*muon, self.adamw(for_adamw)]
