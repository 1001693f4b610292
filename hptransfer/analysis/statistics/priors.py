"""What published studies say before any run, as weak priors; by the names of the columns.

Slopes, octaves of the optimum per octave of the axis (science notes C.1): learning rate against
parameters -0.71 (Step Law), -0.36 (Porian), -0.23 (token horizons), -0.22 (Zhou), mean -0.4; against
tokens +0.31, -0.32, -0.35, mean 0; batch size against tokens 0.57, 0.38, 0.47, mean 0.5, and against
parameters nothing (Step Law, Power Lines) or 0.09 (Zhang). Each deviation holds every one of these
studies. The ridge: at a fixed budget the best learning rate goes with a power 0.3 to 0.7 of the batch size (C.2).
Learning rates have a steeper high side (C.2, D.2). Everything else is expected not to move, by an
octave per octave either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array
from hptransfer.analysis.tables.axis_roles import kind

Normal = tuple[float, float]

SLOPES: dict[tuple[str, str], Normal] = {
    ("rate", "params"): (-0.4, 0.4),
    ("rate", "tokens"): (0.0, 0.4),
    ("batch", "params"): (0.0, 0.15),
    ("batch", "tokens"): (0.5, 0.25),
}
OTHER_SLOPE: Normal = (0.0, 1.0)
SKEWS: dict[str, Normal] = {"rate": (0.4, 0.4), "batch": (0.0, 0.3)}
OTHER_SKEW: Normal = (0.0, 0.4)
RIDGES: dict[tuple[str, str], Normal] = {("rate", "batch"): (0.4, 0.5)}
OTHER_RIDGE: Normal = (0.0, 0.5)
# 0.011 nats per octave squared of a loss of 2.4 (C.2); small nets and squared errors differ by powers of ten.
CURVATURE: Normal = (math.log(0.005), 2.0)
TREND: Normal = (0.0, 0.2)


def slope(tuned: str, axis: str) -> Normal:
    """Mean and deviation of the exponent of a tuned hyperparameter along an axis."""
    return SLOPES.get((kind(tuned), kind(axis)), OTHER_SLOPE)


def shape(tuned: Sequence[str]) -> ShapePrior:
    """What the bowl over these hyperparameters looks like."""
    kinds = [kind(name) for name in tuned]
    pairs = [(kinds[k], kinds[j]) for k in range(len(kinds)) for j in range(k + 1, len(kinds))]
    return ShapePrior(
        curvature=CURVATURE,
        trend=TREND,
        skew=tuple(SKEWS.get(one, OTHER_SKEW) for one in kinds),
        ridge=tuple(RIDGES.get(pair, OTHER_RIDGE) for pair in pairs),
    )


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """What is known of the bowl before any run: independent normals, (mean, standard deviation).

    Attributes:
        curvature: of each a_k, log of log loss per octave squared.
        trend: of every t_k,axis.
        skew: of kappa_k, by tuned hyperparameter.
        ridge: of gamma_kj, by pair k < j.
    """

    curvature: tuple[float, float]
    trend: tuple[float, float]
    skew: tuple[tuple[float, float], ...]
    ridge: tuple[tuple[float, float], ...]

    def rows(self, tuned: int, axes: int) -> Array:
        """Means and deviations of all shape parameters, (2, parameters)."""
        normals = [self.curvature] * tuned + [self.trend] * (tuned * axes) + [*self.skew, *self.ridge]
        return np.array(normals, dtype=float).T
