"""Base class of laws, and the terms they are made of.

A law is a set of features of a scale in which log2 of the optimum is linear. A number of a form that is not linear,
such as the position of a break, takes a few values. Each value is a variant. A variant is weighted by how well it
predicts larger scales from smaller ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.core.registry import Registry

Feature = Callable[[Axes], float]


@dataclass(frozen=True, eq=False)
class SweptAxes:
    """Axes of the swept scales.

    Attributes:
        values: distinct values of every axis, ascending.
    """

    values: dict[str, list[float]]

    @classmethod
    def of(cls, scales: Sequence[Axes]) -> SweptAxes:
        """Return the axes of scales."""
        return cls({axis: sorted({scale[axis] for scale in scales}) for axis in scales[0]})

    @property
    def moving(self) -> list[str]:
        """Axes with more than one value, which have exponents."""
        return [axis for axis, values in self.values.items() if len(values) > 1]

    def octaves(self, axis: str) -> Feature:
        """Return the feature log2 of an axis over its smallest value."""
        smallest = self.values[axis][0]
        return lambda scale: float(np.log2(scale[axis] / smallest))


@dataclass(frozen=True)
class Term:
    """One term of a law.

    Attributes:
        feature: function of a scale.
        mean, deviation: prior of its coefficient, in octaves; None: the caller's prior of slopes along `axis`.
        bend: True for the curvature along `axis`, whose prior has a heavy tail.
    """

    feature: Feature
    axis: str | None = None
    mean: float | None = None
    deviation: float | None = None
    bend: bool = False


@dataclass(frozen=True, eq=False)
class Variant:
    """Form with all numbers fixed but its coefficients.

    The first term of every variant is 1.
    """

    law: str
    terms: Sequence[Term]
    detail: str = ""

    def matrix(self, scales: Sequence[Axes]) -> Array:
        """Return the features, (scales, terms)."""
        return np.array([[term.feature(scale) for term in self.terms] for scale in scales])

    def bent(self, swept: SweptAxes) -> Variant:
        """Return the variant with a curvature along every axis."""
        return replace(self, terms=[*self.terms, *bend_terms(swept)])


def intercept_term() -> Term:
    """Return the first term: the optimum at the axes' smallest values."""
    return Term(lambda scale: 1.0)


def slope_terms(swept: SweptAxes, axes: Sequence[str]) -> list[Term]:
    """Return a term for a power of each axis."""
    return [Term(swept.octaves(axis), axis) for axis in axes]


def bend_terms(swept: SweptAxes) -> list[Term]:
    """Return a term for the curvature along each axis.

    Its feature is the square of the octaves from the middle of the swept range, so that the power between the ends of
    an axis does not depend on it.
    """
    return [Term(_square_from_middle(swept, axis), axis, bend=True) for axis in swept.moving]


def _square_from_middle(swept: SweptAxes, axis: str) -> Feature:
    values, octaves = swept.values[axis], swept.octaves(axis)
    middle = float(np.log2(values[-1] / values[0])) / 2
    return lambda scale: (octaves(scale) - middle) ** 2


class Law(ABC):
    """A form of law.

    Attributes:
        default: True if the form is weighed unless an analysis names its laws.
        order: position among the default forms, ascending; forms with the same position are sorted by name.
    """

    default: ClassVar[bool] = True
    order: ClassVar[int] = 100

    @abstractmethod
    def variants(self, swept: SweptAxes) -> list[Variant]:
        """Return the variants of the form on these axes.

        Empty if the form does not apply to them.
        """


LAWS: Registry[Law] = Registry("law", "hptransfer.analysis.laws.forms")


def default_laws() -> tuple[str, ...]:
    """Return the names of all default forms in their order of evaluation."""
    members = {name: LAWS.get(name) for name in LAWS.names()}
    return tuple(sorted((name for name in members if members[name].default), key=lambda name: members[name].order))
