"""The port of a law: features of a scale in which log2 of the optimum is linear.

What is not linear in a form, such as where it breaks, is a handful of variants; each is weighed by
how well it predicts larger scales from smaller ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.core.registry import Registry

Feature = Callable[[Axes], float]


@dataclass(frozen=True, eq=False)
class SweptAxes:
    """The scales that were swept.

    Attributes:
        values: of every axis, ascending.
    """

    values: dict[str, list[float]]

    @classmethod
    def of(cls, scales: Sequence[Axes]) -> SweptAxes:
        return cls({axis: sorted({scale[axis] for scale in scales}) for axis in scales[0]})

    @property
    def moving(self) -> list[str]:
        """Axes with more than one value; of the others no law can say anything."""
        return [axis for axis, values in self.values.items() if len(values) > 1]

    def octaves(self, axis: str) -> Feature:
        """log2 of an axis over its smallest value."""
        smallest = self.values[axis][0]
        return lambda scale: float(np.log2(scale[axis] / smallest))


@dataclass(frozen=True)
class Term:
    """One term of a law.

    Attributes:
        feature: of a scale.
        mean, deviation: of its coefficient before any run, in octaves; None: as the law's caller knows of slopes
            along `axis`.
    """

    feature: Feature
    axis: str | None = None
    mean: float | None = None
    deviation: float | None = None


@dataclass(frozen=True, eq=False)
class Variant:
    """A form whose every number but the coefficients is settled. The first term of each is 1."""

    law: str
    terms: Sequence[Term]
    detail: str = ""

    def matrix(self, scales: Sequence[Axes]) -> Array:
        """Features, (scales, terms)."""
        return np.array([[term.feature(scale) for term in self.terms] for scale in scales])


def intercept_term() -> Term:
    """The first term: the optimum at the smallest values of all axes."""
    return Term(lambda scale: 1.0)


def slope_terms(seen: SweptAxes, axes: Sequence[str]) -> list[Term]:
    """A power of each axis."""
    return [Term(seen.octaves(axis), axis) for axis in axes]


class Law(ABC):
    """A form of law.

    Attributes:
        default: True if the form is weighed unless an analysis names its laws.
        order: position among the default forms, ascending; forms with the same position are sorted by name.
    """

    default: ClassVar[bool] = True
    order: ClassVar[int] = 100

    @abstractmethod
    def variants(self, seen: SweptAxes) -> list[Variant]:
        """The form on these axes; none if it does not apply to them."""


LAWS: Registry[Law] = Registry("law", "hptransfer.analysis.laws.forms")


def default_laws() -> tuple[str, ...]:
    """Return the names of all default forms in their order of evaluation."""
    members = {name: LAWS.get(name) for name in LAWS.names()}
    return tuple(sorted((name for name in members if members[name].default), key=lambda name: members[name].order))
