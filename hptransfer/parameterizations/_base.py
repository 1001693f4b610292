"""Roles of parameters, exponent tables and update laws, with their formula.

A weight is used as `W = n^-a * w` with `w ~ N(0, sigma^2 n^-2b)` (abc form: arXiv:2011.14522; Everett et al.,
2407.05872). n is a size over that of the base model, so that every factor is exactly 1 at the base. A matrix has two
sizes, which may grow unequally: n_in, its fan-in, and n_out, its fan-out.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from hptransfer.core.registry import Registry

FULL_ALIGNMENT, NO_ALIGNMENT = 1.0, 0.5
"""Alignments of an update with a layer's input, as powers of the fan-in."""


class Role(enum.Enum):
    """Role of a parameter, by the dimensions that grow with width."""

    INPUT = "input"
    """Matrix of which only the output grows: embeddings, first layers."""
    HIDDEN = "hidden"
    """Matrix with two growing dimensions."""
    OUTPUT = "output"
    """Matrix of which only the input grows: the readout, a router."""
    VECTOR = "vector"
    """Vector that grows: norm gains, biases."""
    FIXED = "fixed"
    """Tensor without a growing dimension."""


MATRICES = frozenset({Role.INPUT, Role.HIDDEN, Role.OUTPUT})


@dataclass(frozen=True)
class ShapePower:
    """Exponents of n_in^fan_in * n_out^fan_out * max(n_in, n_out)^largest.

    `averaged` and `spread` are exponents of the values of the same name in `Sizes`.
    """

    fan_in: float = 0.0
    fan_out: float = 0.0
    largest: float = 0.0
    averaged: float = 0.0
    spread: float = 0.0

    def __add__(self, other: ShapePower) -> ShapePower:
        return ShapePower(
            self.fan_in + other.fan_in,
            self.fan_out + other.fan_out,
            self.largest + other.largest,
            self.averaged + other.averaged,
            self.spread + other.spread,
        )

    def __mul__(self, factor: float) -> ShapePower:
        return ShapePower(
            self.fan_in * factor,
            self.fan_out * factor,
            self.largest * factor,
            self.averaged * factor,
            self.spread * factor,
        )

    def __neg__(self) -> ShapePower:
        return self * -1.0

    @property
    def total(self) -> float:
        """Power of n when all sizes grow alike; `averaged` and `spread` stay."""
        return self.fan_in + self.fan_out + self.largest


ZERO = ShapePower()


@dataclass(frozen=True)
class RoleExponents:
    """Exponents of one role: multiplier n^-a, init standard deviation n^-b."""

    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, kw_only=True)
class UpdateLaw:
    """Scaling law of an optimizer's raw step, before its learning rate.

    The change of a layer's output, over the layer's input, grows as gradient^gradient * weight^weight * n^gain.
    gradient and weight are the root mean squares of a tensor's gradient and of its entries.

    Attributes:
        gradient: 1 for SGD, 0 for updates without a scale, -1 for a full curvature inverse.
        weight: 1 if the step is relative to the weights (Adafactor with parameter scaling).
        gain: exponents of the gain; None for steps of low rank, whose gain is n_in^alignment.
    """

    gradient: float = 0.0
    weight: float = 0.0
    gain: ShapePower | None = None

    def of_unit_gradients(self) -> UpdateLaw:
        """Return the law for gradients of unit size.

        They have the same size at every width and depth.
        """
        return dataclasses.replace(self, gradient=0.0)


ENTRYWISE = UpdateLaw()
"""Law of Adam, AdamW, Adam-atan2, Lion and sign: every entry's step has size 1."""
RAW = UpdateLaw(gradient=1)
"""Law of SGD, with or without momentum."""
RELATIVE = UpdateLaw(weight=1)
"""Law of Adafactor, or Adam, with parameter scaling."""
SPECTRAL = UpdateLaw(gain=ShapePower(fan_in=1 / 2, fan_out=-1 / 2))
"""Law of steps with spectral norm 1: unscaled Muon, Shampoo with exponents -1/4."""
SPECTRAL_RMS = UpdateLaw(gain=ShapePower(fan_in=1 / 2, fan_out=-1 / 2, largest=1 / 2))
"""Law of Muon times sqrt(max(fan-in, fan-out)), whose entries have a fixed size (arXiv:2502.16982)."""
INVERSE_CURVATURE = UpdateLaw(gradient=-1, gain=ShapePower(fan_out=-1))
"""Law of K-FAC with relative damping: the output moves by delta / |delta|^2 (arXiv:2312.12226)."""


@dataclass(frozen=True, kw_only=True)
class Parameterization:
    """Parameterization: a table of exponents by role.

    Attributes:
        rows: multiplier and init exponents of every role.
        global_rate: True if all roles share one learning rate, epsilon and weight decay unless an alignment is given.
            That is usual under standard parameterization.
        unit: True if the base model has size 1, so that factors are absolute, and every operation keeps values and
            gradients at unit size (u-muP; numbers in `unit_scaling`).
        depth: default exponent of the residual branch factor.
        lookup: power of the learning rate of embeddings, where the source's rule differs from the formula.
        laws: update laws that it has rates for; empty for all.
        decay: default meaning of weight decay: "coupled" or "independent".
        source: paper and table.
    """

    rows: Mapping[Role, RoleExponents]
    source: str
    global_rate: bool = False
    unit: bool = False
    depth: float = 0.0
    lookup: ShapePower | None = None
    laws: tuple[UpdateLaw, ...] = ()
    decay: str = "coupled"

    def along(self, role: Role, exponent: float) -> ShapePower:
        """Return a power of the size that sets multiplier and init.

        The size is fan-in if that grows, else fan-out.
        """
        if role is Role.FIXED:
            return ZERO
        return ShapePower(fan_in=exponent) if role in (Role.HIDDEN, Role.OUTPUT) else ShapePower(fan_out=exponent)

    def multiplier(self, role: Role) -> ShapePower:
        """Return the power of a role's multiplier."""
        return self.along(role, -self.rows[role].a)

    def init_std(self, role: Role) -> ShapePower:
        """Return the power of a role's init standard deviation."""
        spread = ZERO if self.global_rate else ShapePower(spread=1)
        return self.along(role, -self.rows[role].b) + spread

    def gradient(self, role: Role, alignment: float = FULL_ALIGNMENT) -> ShapePower:
        """Return the power of the gradient's root mean square.

        The gradient is that of the stored tensor. The signal that reaches a layer before the readout falls as the
        readout's entries: as n^-(a+b) at initialization and as n^-alignment once it has moved, whichever falls slower
        (arXiv:2407.05872, stability system, with min for max). A tensor's own multiplier adds to it. A layer whose
        output is one of those in a mean receives its share.
        """
        if self.unit:
            return ZERO
        of_tensor = self.multiplier(role) + ShapePower(averaged=-1)
        if role in (Role.OUTPUT, Role.FIXED):
            return of_tensor
        readout = self.rows[Role.OUTPUT]
        return of_tensor + ShapePower(fan_out=-min(readout.a + readout.b, alignment))

    def learning_rate(self, role: Role, law: UpdateLaw, alignment: float | None = None) -> ShapePower:
        """Return the power of the factor on a role's learning rate.

        With it every layer's output changes equally at all sizes.

        Args:
            alignment: alignment of an update with the layer's input, from 1/2 (none) to 1 (full); None is the
                parameterization's default: one rate for all, or full.
        """
        if alignment is None:
            if self.global_rate:
                return ZERO
            alignment = FULL_ALIGNMENT
        gain = law.gain if law.gain is not None else ShapePower(fan_in=alignment)
        if role not in (Role.HIDDEN, Role.OUTPUT):
            gain = ShapePower(fan_out=gain.fan_out, largest=gain.largest)
        if role in (Role.OUTPUT, Role.FIXED):
            gain = ShapePower(fan_in=gain.fan_in, largest=gain.largest)
        if role not in MATRICES:
            gain = ZERO
        power = -(
            self.multiplier(role)
            + self.gradient(role, alignment) * law.gradient
            + self.init_std(role) * law.weight
            + gain
        )
        if law.weight and power.total > 0:  # a step is never more than the weights themselves
            return ZERO
        return power

    def epsilon(self, role: Role, alignment: float | None = None) -> ShapePower:
        """Return the power of Adam's epsilon, that of the gradient."""
        if alignment is None:
            if self.global_rate:
                return ZERO
            alignment = FULL_ALIGNMENT
        return self.gradient(role, alignment)


PARAMETERIZATIONS: Registry[Parameterization] = Registry("parameterization", "hptransfer.parameterizations")
