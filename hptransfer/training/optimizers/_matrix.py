"""What Shampoo and K-FAC share: two factors a matrix, exponential means, whose damped powers multiply its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import ENTRYWISE, MATRICES, Role, TensorRule, UpdateLaw
from hptransfer.training.layers import Layer
from hptransfer.training.optimizers import DecoupledDecay
from hptransfer.training.optimizers.adamw import AdamSettings

CHOICES = {"all": MATRICES, "hidden": frozenset({Role.HIDDEN})}


@dataclass(kw_only=True)
class MatrixConfig(AdamSettings):
    """Settings of both methods. Roles that `matrices` leaves out, and vectors, train with AdamW: `beta1`, `eps`.

    `beta2` is the memory of the factors and of AdamW's squared gradient.
    """

    matrices: str = "all"
    """all: input, hidden and output matrices; or hidden: those alone, and AdamW for the others."""
    momentum: float = 0.9
    """Memory of the gradient of matrices, in [0, 1)."""
    damping: float = 1e-6
    """Added to a factor's eigenvalues, as a share of the largest, so that it means the same at every width; above 0."""
    every: int = 1
    """Steps between two computations of the factors' powers."""
    largest_side: int = 2048
    """Sides of a matrix that are longer have no dense factor; at least 1."""

    def check(self, place: str) -> None:
        super().check(place)
        self.check_memories(place, "momentum")
        if self.matrices not in CHOICES:
            raise ConfigError(f"{place}.matrices: {unknown('choice', self.matrices, CHOICES)}")
        if not 0 < self.damping <= 1:
            raise ConfigError(f"{place}.damping must be in (0, 1], got {self.damping}; typical values are 1e-6 to 0.1")
        for key in ("every", "largest_side"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{place}.{key} must be at least 1, got {getattr(self, key)}")

    @property
    @abstractmethod
    def matrix_law(self) -> UpdateLaw:
        """The law of the method's own steps."""

    def law(self, role: Role) -> UpdateLaw:
        return self.matrix_law if role in CHOICES[self.matrices] else ENTRYWISE

    def more(self, rule: TensorRule) -> dict[str, float]:
        if rule.role in CHOICES[self.matrices]:
            memories = {"momentum": rule.budget.beta(self.momentum), "beta2": rule.budget.beta(self.beta2)}
            return {**memories, "damping": self.damping, "every": self.every, "largest_side": self.largest_side}
        return super().more(rule)

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        # Trials of a stack may differ in every setting: a group has those that its own trial gives it.
        own = [{**group, "decoupled": self.coupled(group)} for group in groups if "damping" in group]
        rest = [group for group in groups if "damping" not in group]
        return [*([self.preconditioned(own)] if own else []), *([self.adamw(rest)] if rest else [])]

    @abstractmethod
    def preconditioned(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The method over groups of matrices."""


class FactoredPreconditioner(torch.optim.Optimizer, ABC):
    """w -= lr * left^p m right^p, m the bias-corrected mean gradient, left and right bias-corrected mean factors.

    Groups say, beside the settings: `layers`, those of the tensors; `trial`, their place in the stack; `terms`, how
    many the loss is the mean of.
    """

    def __init__(self, params: list[dict[str, Any]]) -> None:
        super().__init__(params, {"terms": 1})

    @abstractmethod
    def factors(self, view: Tensor, layer: Layer, group: dict[str, Any]) -> list[Tensor | None]:
        """This step's left and right factor: symmetric, or a diagonal as a vector, or None for the identity."""

    @abstractmethod
    def power(self, num_factors: int) -> float:
        """The power that each of so many factors is raised to."""

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
    """With AdamW's weight decay."""


def times_right(matrix: Tensor, factor: Tensor | None) -> Tensor:
    """matrix times a symmetric factor; of a diagonal one the vector."""
    if factor is None:
        return matrix
    return matrix * factor if factor.dim() == 1 else matrix @ factor


def damped_power(factor: Tensor, power: float, damping: float) -> Tensor:
    """(factor + damping * its largest eigenvalue)^power; NaN where the factor is not finite, as eigh would raise.

    In float64: in float32 eigenvalues are wrong by 1e-7 of the largest, as much as a small damping. The largest
    eigenvalue and not the mean one, which falls behind it as width grows while the batch, and so the rank, does not.

    Args:
        factor: symmetric and without negative eigenvalues but for rounding, or a diagonal as a vector.
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
    # Factors that are still zero belong to gradients that are: their power only has to be finite.
    tiny = torch.finfo(torch.float32).tiny
    powers: Tensor = (values + damping * values.max()).clamp_min(tiny) ** power
    return powers
