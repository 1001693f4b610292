"""Roles of parameters, a parameterization's table, an optimizer's update law, and the one formula.

A weight is used as `W = n^-a * w` with `w ~ N(0, sigma^2 n^-2b)` (abc form: arXiv:2011.14522; Everett
et al., 2407.05872), n being a size over the size of the base model, so that everything is exactly 1 at
the base. A matrix has two sizes, which may grow unequally: n_in, its fan-in, and n_out, its fan-out.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from hptransfer.core.registry import Registry

FULL, NONE = 1.0, 0.5


class Role(enum.Enum):
    """What a parameter does, by which of its dimensions grow with width."""

    INPUT = "input"
    """Matrix whose output grows and whose input does not: embeddings, first layers."""
    HIDDEN = "hidden"
    """Matrix with two growing dimensions."""
    OUTPUT = "output"
    """Matrix whose input grows and whose output does not: the readout, a router."""
    VECTOR = "vector"
    """One-dimensional and growing: norm gains, biases."""
    FIXED = "fixed"
    """No growing dimension."""


MATRICES = frozenset({Role.INPUT, Role.HIDDEN, Role.OUTPUT})


@dataclass(frozen=True)
class ShapePower:
    """n_in^fan_in * n_out^fan_out * max(n_in, n_out)^largest, and what else `Sizes` has to a power, as exponents."""

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
        """The power of n when all sizes grow alike; what is no size of the matrix stays."""
        return self.fan_in + self.fan_out + self.largest


ZERO = ShapePower()


@dataclass(frozen=True)
class RoleExponents:
    """Exponents of one role: multiplier n^-a, init standard deviation n^-b."""

    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, kw_only=True)
class UpdateLaw:
    """How the raw step of an optimizer (before its learning rate) changes what a layer puts out.

    The change, over the layer's input, grows as gradient^gradient * weight^weight * n^gain, where
    gradient and weight are the root mean squares of a tensor's gradient and of its entries.

    Attributes:
        gradient: 1 for SGD, 0 for updates without a scale, -1 for a full curvature inverse.
        weight: 1 if the step is relative to the weights (Adafactor with parameter scaling).
        gain: None for steps of low rank, whose gain is n_in^alignment; else its exponents.
    """

    gradient: float = 0.0
    weight: float = 0.0
    gain: ShapePower | None = None

    def of_unit_gradients(self) -> UpdateLaw:
        """The law where gradients have the same size at every width and depth."""
        return dataclasses.replace(self, gradient=0.0)


ENTRYWISE = UpdateLaw()
"""Adam, AdamW, Adam-atan2, Lion, sign: every entry's step has size 1."""
RAW = UpdateLaw(gradient=1)
"""SGD, with or without momentum."""
RELATIVE = UpdateLaw(weight=1)
"""Adafactor, or Adam, with parameter scaling."""
SPECTRAL = UpdateLaw(gain=ShapePower(fan_in=1 / 2, fan_out=-1 / 2))
"""Spectral norm 1: Muon as it is, Shampoo with exponents -1/4."""
SPECTRAL_RMS = UpdateLaw(gain=ShapePower(fan_in=1 / 2, fan_out=-1 / 2, largest=1 / 2))
"""Muon times sqrt(max(fan-in, fan-out)), so that its entries have a fixed size (arXiv:2502.16982)."""
CURVATURE = UpdateLaw(gradient=-1, gain=ShapePower(fan_out=-1))
"""K-FAC with relative damping: the output moves by delta / |delta|^2 (arXiv:2312.12226)."""


@dataclass(frozen=True, kw_only=True)
class Parameterization:
    """A table of exponents by role.

    Attributes:
        rows: multiplier and init exponents of every role.
        global_rate: True if one learning rate, epsilon and weight decay serve all roles, as people
            do under standard parameterization, unless an alignment is asked for.
        unit: True if the base model has size 1, so that factors are absolute, and every operation
            keeps values and gradients at unit size (u-muP; numbers in `_unit`).
        depth: exponent of the residual branch factor that belongs to it; 0 unless the run says.
        lookup: power of the learning rate of embeddings, where the source's own rule is not the
            formula's.
        laws: those of the optimizers that it has rates for; empty for all.
        decay: what weight decay means unless the run says: "coupled" or "independent".
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
        """A power of the size that a role's multiplier and init go by: fan-in if that grows."""
        if role is Role.FIXED:
            return ZERO
        return ShapePower(fan_in=exponent) if role in (Role.HIDDEN, Role.OUTPUT) else ShapePower(fan_out=exponent)

    def multiplier(self, role: Role) -> ShapePower:
        return self.along(role, -self.rows[role].a)

    def init_std(self, role: Role) -> ShapePower:
        own = ZERO if self.global_rate else ShapePower(spread=1)
        return self.along(role, -self.rows[role].b) + own

    def gradient(self, role: Role, alignment: float = FULL) -> ShapePower:
        """The gradient's root mean square with respect to the stored tensor.

        The signal that reaches a layer before the readout falls as the readout's entries: as
        n^-(a+b) at initialization, as n^-alignment once it has moved, whichever falls slower
        (arXiv:2407.05872, stability system, with min for max). A tensor's own multiplier adds to it.
        A layer whose output is one of those in a mean receives its share.
        """
        if self.unit:
            return ZERO
        own = self.multiplier(role) + ShapePower(averaged=-1)
        if role in (Role.OUTPUT, Role.FIXED):
            return own
        readout = self.rows[Role.OUTPUT]
        return own + ShapePower(fan_out=-min(readout.a + readout.b, alignment))

    def learning_rate(self, role: Role, law: UpdateLaw, alignment: float | None = None) -> ShapePower:
        """Power by which the learning rate is multiplied, so that every layer's output keeps moving alike.

        Args:
            alignment: how an update and the layer's input go together, from 1/2 (not at all) to 1
                (fully); None is the parameterization's own: one rate for all, or full.
        """
        if alignment is None:
            if self.global_rate:
                return ZERO
            alignment = FULL
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
        """Power of Adam's epsilon: that of the gradient it is added to."""
        if alignment is None:
            if self.global_rate:
                return ZERO
            alignment = FULL
        return self.gradient(role, alignment)


PARAMETERIZATIONS: Registry[Parameterization] = Registry("parameterization", "hptransfer.parameterizations")
