"""Preconditioning with two factors per matrix, for Shampoo and K-FAC.

Factors are exponential means; their damped powers multiply the matrix's gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import ENTRYWISE, MATRICES, Role, Scaling, TensorRule, UpdateLaw
from hptransfer.training.layers import Layer
from hptransfer.training.optimizers import DecoupledDecay
from hptransfer.training.optimizers.adamw import AdamSettings

PRECONDITIONED_ROLES = {"all": MATRICES, "hidden": frozenset({Role.HIDDEN})}


@dataclass(kw_only=True)
class MatrixConfig(AdamSettings):
    """Settings of Shampoo and K-FAC.

    AdamW trains vectors and the roles that `matrices` excludes. Its settings are `beta1` and `eps`. `beta2` is the
    memory of the factors and of AdamW's squared gradient.
    """

    matrices: str = "all"
    """all (input, hidden and output matrices), or hidden (AdamW trains the others)."""
    momentum: float = 0.9
    """Memory of the gradient of matrices, in [0, 1)."""
    damping: float = 1e-6
    """Damping of a factor's eigenvalues as a share of the largest, and so independent of width; in (0, 1]."""
    every: int = 1
    """Number of steps between computations of the factors' powers."""
    largest_side: int = 2048
    """Longest side of a matrix that has a dense factor; at least 1."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "momentum")
        if self.matrices not in PRECONDITIONED_ROLES:
            raise ConfigError(f"{place}.matrices: {unknown('choice', self.matrices, PRECONDITIONED_ROLES)}")
        if not 0 < self.damping <= 1:
            raise ConfigError(f"{place}.damping must be in (0, 1], got {self.damping}; typical values are 1e-6 to 0.1")
        for key in ("every", "largest_side"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {getattr(self, key)}")

    @property
    @abstractmethod
    def matrix_law(self) -> UpdateLaw:
        """Update law of the method's own steps."""

    def law(self, role: Role) -> UpdateLaw:
        return self.matrix_law if role in PRECONDITIONED_ROLES[self.matrices] else ENTRYWISE

    def other_scalings(self, rule: TensorRule) -> dict[str, Scaling]:
        if rule.role in PRECONDITIONED_ROLES[self.matrices]:
            memories = dict.fromkeys(("momentum", "beta2"), rule.budget.memory)
            return {**memories, "damping": 1, "every": 1, "largest_side": 1}
        return super().other_scalings(rule)

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        # Trials of a stack may differ in every setting, so each group carries its trial's.
        matrices = [{**group, "decoupled": self.coupled(group)} for group in groups if "damping" in group]
        for_adamw = [group for group in groups if "damping" not in group]
        return [*([self.preconditioned(matrices)] if matrices else []), *([self.adamw(for_adamw)] if for_adamw else [])]

    @abstractmethod
    def preconditioned(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the method's optimizer over groups of matrices."""


class FactoredPreconditioner(torch.optim.Optimizer, ABC):
    """Optimizer with the step w -= lr * left^p m right^p.

    m is the bias-corrected mean gradient, left and right are bias-corrected mean factors. In addition to the settings,
    groups hold the tensors' `layers` and their `trial` (position in the stack). `terms` is the number of terms of the
    mean that is the loss.
    """

    def __init__(self, params: list[dict[str, Any]]) -> None:
        super().__init__(params, {"terms": 1})

    @abstractmethod
    def factors(self, view: Tensor, layer: Layer, group: dict[str, Any]) -> list[Tensor | None]:
        """Return this step's left and right factor.

        A factor is symmetric, or a diagonal as a vector, or None for the identity.
        """

    @abstractmethod
    def power(self, num_factors: int) -> float:
        """Return the power that each of `num_factors` factors is raised to."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for view, layer in zip(group["params"], group["layers"], strict=True):
                self._update(view, layer, group)

    def _update(self, view: Tensor, layer: Layer, group: dict[str, Any]) -> None:
        state: dict[str, Any] = self.state[view]
        new = self.factors(view, layer, group)
        if not state:
            zeros = [None if factor is None else torch.zeros_like(factor) for factor in new]
            state.update(step=0, mean=torch.zeros_like(view), factors=zeros)
        state["mean"].lerp_(view.grad, 1 - group["momentum"])
        for mean, factor in zip(state["factors"], new, strict=True):
            if mean is not None:
                mean.lerp_(factor, 1 - group["beta2"])
        if state["step"] % group["every"] == 0:
            correction = 1 - group["beta2"] ** (state["step"] + 1)
            power = self.power(sum(mean is not None for mean in state["factors"]))
            state["powers"] = [
                None if mean is None else damped_power(mean / correction, power, group["damping"])
                for mean in state["factors"]
            ]
        state["step"] += 1
        left, right = state["powers"]
        update = times_right(times_right(state["mean"].mT, left).mT, right)
        view.sub_(update, alpha=group["lr"] / (1 - group["momentum"] ** state["step"]))


class DecoupledPreconditioner(DecoupledDecay, FactoredPreconditioner):
    """Factored preconditioner with AdamW's weight decay."""


def times_right(matrix: Tensor, factor: Tensor | None) -> Tensor:
    """Multiply a matrix by a symmetric factor, a diagonal or None.

    A diagonal is a vector; None is the identity.
    """
    if factor is None:
        return matrix
    return matrix * factor if factor.dim() == 1 else matrix @ factor


def damped_power(factor: Tensor, power: float, damping: float) -> Tensor:
    """Return (factor + damping * its largest eigenvalue)^power.

    It is NaN where the factor is not finite, as eigh would raise. It is computed in float64: in float32 eigenvalues are
    wrong by 1e-7 of the largest, as much as a small damping. The largest eigenvalue is used instead of the mean. The
    mean grows slower with width, because the batch and thus the rank stay the same.

    Args:
        factor: symmetric, without negative eigenvalues except by rounding; or a diagonal as a vector.
    """
    if not factor.isfinite().all():
        return torch.full_like(factor, torch.nan)
    if factor.dim() == 1:
        return _damped(factor.double(), power, damping).to(factor)
    values, vectors = torch.linalg.eigh(factor.double())
    dense: Tensor = vectors * _damped(values, power, damping) @ vectors.mT
    return dense.to(factor)


def _damped(values: Tensor, power: float, damping: float) -> Tensor:
    values = values.clamp_min(0)
    # A factor that is still zero belongs to a zero gradient: its power only has to be finite.
    tiny = torch.finfo(torch.float32).tiny
    powers: Tensor = (values + damping * values.max()).clamp_min(tiny) ** power
    return powers
