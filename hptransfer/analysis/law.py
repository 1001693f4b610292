"""The law of the optimum: x* = x0 + sum of exponents times log2(axis over its reference).

Scales scatter about the law by more than their own standard errors (the law is not exact at small
widths; seeds differ), so the scatter is estimated and carried along as a random effect: the moment
estimator of meta-regression, residual variance minus the mean squared standard error (Hedges and
Olkin, Statistical Methods for Meta-Analysis, 1985, chapter 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.optimum import Array
from hptransfer.core.errors import FitError

# Scatter that is assumed when there are no more scales than parameters, in octaves: the seed
# standard deviation of the optimum in a small network experiment of our own.
ASSUMED_SCATTER = 0.1


@dataclass(frozen=True, eq=False)
class Design:
    """Which axes have an exponent, and what they are measured against.

    Attributes:
        axes: axes with more than one value; the others have no exponent.
        fixed: the one value of each other axis.
        reference: smallest value of every axis.
        largest: largest value of every axis.
    """

    axes: tuple[str, ...]
    fixed: Mapping[str, float]
    reference: Mapping[str, float]
    largest: Mapping[str, float]

    @classmethod
    def of(cls, scales: Sequence[Mapping[str, float]]) -> Design:
        values = {axis: sorted({scale[axis] for scale in scales}) for axis in scales[0]}
        return cls(
            axes=tuple(axis for axis, seen in values.items() if len(seen) > 1),
            fixed={axis: seen[0] for axis, seen in values.items() if len(seen) == 1},
            reference={axis: seen[0] for axis, seen in values.items()},
            largest={axis: seen[-1] for axis, seen in values.items()},
        )

    @property
    def num_parameters(self) -> int:
        return 1 + len(self.axes)

    def matrix(self, scales: Sequence[Mapping[str, float]]) -> Array:
        """A row a scale: 1, then log2(value over reference) of every axis that has an exponent.

        Raises:
            FitError: a scale differs on an axis of which only one value was seen.
        """
        for scale in scales:
            for axis, seen in self.fixed.items():
                if scale[axis] != seen:
                    raise FitError(
                        f"no exponent for {axis}: only {axis}={seen:g} was swept, the target has {scale[axis]:g}; "
                        f"sweep at least two values of {axis}, or set the target's to {seen:g}"
                    )
        rows = [[1.0, *(np.log2(scale[axis] / self.reference[axis]) for axis in self.axes)] for scale in scales]
        return np.array(rows)

    def distance(self, scale: Mapping[str, float]) -> float:
        """Octaves beyond the largest scale seen, the largest over the axes; 0 inside the seen range."""
        return max(0.0, *(float(np.log2(scale[axis] / self.largest[axis])) for axis in scale))


@dataclass(frozen=True, eq=False)
class Law:
    """A fitted law.

    Attributes:
        coefficients: x0, then one exponent an axis of the design.
        scatter: standard deviation of the scales about the law, beyond their errors, in octaves.
        residual_squares: sum of squared residuals, and `freedom`, its degrees of freedom.
    """

    design: Design
    coefficients: Array
    scatter: float
    residual_squares: float
    freedom: int

    def at(self, scale: Mapping[str, float]) -> float:
        """log2 of the optimum at a scale."""
        return float((self.design.matrix([scale]) @ self.coefficients)[0])


def weighted(matrix: Array, x: Array, variance: Array) -> Array:
    """Weighted least squares; x may have a row a draw. Returns coefficients, a row a draw."""
    weights = 1 / variance
    normal = matrix.T @ (matrix * weights[:, None])
    solved: Array = np.linalg.solve(normal, matrix.T @ (x * weights).T).T
    return solved


def fit_law(design: Design, scales: Sequence[Mapping[str, float]], x: Array, se: Array) -> Law:
    """Weighted least squares with weights 1/(se^2 + scatter^2).

    Args:
        x: log2 of each scale's optimum.
        se: its standard error, in octaves.

    Raises:
        FitError: fewer scales than parameters, or scales that do not tell the axes apart.
    """
    matrix = design.matrix(scales)
    if len(scales) < design.num_parameters or np.linalg.matrix_rank(matrix) < design.num_parameters:
        raise FitError(
            f"a law over {', '.join(design.axes) or 'no axis'} has {design.num_parameters} parameters and "
            f"{len(scales)} scales with a bracketed optimum cannot tell them apart; sweep more scales"
        )
    freedom = len(scales) - design.num_parameters
    plain: Array = np.linalg.lstsq(matrix, x, rcond=None)[0]
    squares = float(((x - matrix @ plain) ** 2).sum())
    scatter = np.sqrt(max(0.0, squares / freedom - float((se**2).mean()))) if freedom else ASSUMED_SCATTER
    coefficients = weighted(matrix, x, se**2 + scatter**2)
    return Law(design, coefficients, float(scatter), squares, freedom)


def scatter_draws(law: Law, se: Array, draws: int, random: np.random.Generator) -> Array:
    """Scatter of each draw, in octaves: the estimate with its own (chi-squared) uncertainty."""
    if not law.freedom:
        return np.full(draws, ASSUMED_SCATTER)
    total = law.residual_squares / random.chisquare(law.freedom, draws)
    drawn: Array = np.sqrt(np.maximum(0.0, total - float((se**2).mean())))
    return drawn
