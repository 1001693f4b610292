"""Roles of parameters, a parameterization's table, and the one formula for learning rates.

A weight is used as `W = n^-a * w` with `w ~ N(0, sigma^2 n^-2b)`; n is the width over the base width,
so that everything is exactly 1 at the base (abc form: arXiv:2011.14522; Everett et al., 2407.05872).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from hptransfer.core.registry import Registry


class Role(enum.Enum):
    """What a parameter does, by which of its dimensions grow with width."""

    INPUT = "input"
    """Matrix whose output grows and whose input does not: embeddings, first layers."""
    HIDDEN = "hidden"
    """Matrix with two growing dimensions."""
    OUTPUT = "output"
    """Matrix whose input grows and whose output does not: the readout."""
    VECTOR = "vector"
    """One-dimensional and growing: norm gains, biases."""
    FIXED = "fixed"
    """No growing dimension."""


@dataclass(frozen=True)
class Row:
    """Exponents of one role: multiplier n^-a, init standard deviation n^-b."""

    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True)
class UpdateLaw:
    """How the raw step of an optimizer (before its learning rate) scales.

    Attributes:
        gradient: power of the gradient's RMS in the step: 0 for Adam-like updates, 1 for SGD.
    """

    gradient: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Parameterization:
    """A table of exponents by role.

    Attributes:
        rows: multiplier and init exponents of every role.
        global_rate: True if one learning rate, epsilon and weight decay serve all roles, as people
            do under standard parameterization; the formula is then not applied.
        published: cells (optimizer family, role) -> power of n of the learning rate, as printed in
            `source`: the oracle that a test compares the formula with.
        source: paper and table.
    """

    rows: Mapping[Role, Row]
    source: str
    global_rate: bool = False
    published: Mapping[tuple[str, Role], float] = field(default_factory=dict)

    def gradient_exponent(self, role: Role) -> float:
        """g such that the gradient's RMS with respect to the stored tensor falls as n^-g.

        The backward signal reaching a hidden layer falls as n^-(a+b) of the readout at
        initialization (arXiv:2407.05872, stability system); each tensor's own multiplier adds a.
        """
        row = self.rows[role]
        if role in (Role.OUTPUT, Role.FIXED):
            return row.a
        readout = self.rows[Role.OUTPUT]
        return row.a + readout.a + readout.b

    def learning_rate_exponent(self, role: Role, law: UpdateLaw) -> float:
        """Power of n by which the learning rate is multiplied.

        The change of a layer's output, `n^-a * lr * step * n^alignment`, is to keep its size:
        alignment is 1 (full: update and input are correlated) where the fan-in grows, else 0.
        """
        if self.global_rate:
            return 0.0
        alignment = 1.0 if role in (Role.HIDDEN, Role.OUTPUT) else 0.0
        return self.rows[role].a - alignment + law.gradient * self.gradient_exponent(role)

    def epsilon_exponent(self, role: Role) -> float:
        """Power of n of Adam's epsilon: that of the gradient it is added to."""
        return 0.0 if self.global_rate else -self.gradient_exponent(role)

    def weight_decay_exponent(self, role: Role) -> float:
        """Power of n of coupled weight decay: keeps learning rate times decay as at the base.

        The published rule for AdamW (arXiv:2203.03466 as completed by 2505.01618, Table 1).
        """
        return -self.learning_rate_exponent(role, UpdateLaw())


PARAMETERIZATIONS: Registry[Parameterization] = Registry("parameterization", "hptransfer.parameterizations")
