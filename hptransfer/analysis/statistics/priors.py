"""Weak priors from published studies, by the names of the columns.

Slopes, in octaves of the optimum per octave of the axis:

- learning rate against parameters: -0.71 (Step Law, arXiv:2503.04715), -0.36 (Porian, arXiv:2406.19146), -0.23 (token
  horizons, arXiv:2409.19913), -0.22 (Zhou, arXiv:2601.05049); prior mean -0.4;
- learning rate against tokens: +0.31 (Step Law), -0.32 (token horizons), -0.35 (Zhou); prior mean 0;
- batch size against tokens: 0.57 (Step Law), 0.38 (Power Lines, arXiv:2505.13738), 0.47 (Zhang, arXiv:2410.21676);
  prior mean 0.5;
- batch size against parameters: 0 (Step Law, Power Lines) or 0.09 (Zhang); prior mean 0. Parameters grow as the square
  of the width and in proportion to the depth.

The optimum need not be an exact power of an axis. Its curvature, in octaves per octave squared, has a mean of 0 and a
heavy tail: a mixture of normals that approximates Student's t with two degrees of freedom. In GPT-2-style models of 22M
to 707M parameters the best learning rate bends upward along the size and hardly along the tokens (arXiv:2606.29158).
So the learning rate's tail along tokens has half the scale of that along parameters. Parameters grow as the
square of the width, so a bend over width is the steeper one.

Each deviation covers all of these studies. At a fixed budget the best learning rate is a power 0.3 to 0.7 of the batch
size (the ridge), and the loss rises faster at high learning rates (the skew); both are measured on the published runs
of Step Law. Every other exponent has a prior of 0 with a deviation of one octave per octave.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array
from hptransfer.analysis.tables.quantities import quantity_of

Normal = tuple[float, float]

SLOPES: dict[tuple[str, str], Normal] = {
    ("rate", "params"): (-0.4, 0.4),
    ("rate", "tokens"): (0.0, 0.4),
    ("batch", "params"): (0.0, 0.15),
    ("batch", "tokens"): (0.5, 0.25),
    ("batch", "width"): (0.0, 0.3),
    ("batch", "depth"): (0.0, 0.15),
}
OTHER_SLOPE: Normal = (0.0, 1.0)
# Scale of the curvature's tail, by tuned hyperparameter and axis, and any other.
BEND_SCALES: dict[tuple[str, str], float] = {
    **{("rate", "params"): 0.025, ("batch", "params"): 0.025},
    **{("rate", "tokens"): 0.013, ("batch", "tokens"): 0.025},
}
OTHER_BEND = 0.04
# Spreads of the curvature over its scale, with their prior weights.
BEND_SPREADS, BEND_SHARES = (0.7, 1.3, 3.0, 8.0), (0.35, 0.42, 0.18, 0.05)
# Up to this number of axes each has its own spread; more of them share one, to limit the mixture.
OWN_BEND = 2
SKEWS: dict[str, Normal] = {"rate": (0.4, 0.4), "batch": (0.0, 0.3)}
OTHER_SKEW: Normal = (0.0, 0.4)
RIDGES: dict[tuple[str, str], Normal] = {("rate", "batch"): (0.4, 0.5)}
OTHER_RIDGE: Normal = (0.0, 0.5)
# Log odds of divergence in the middle of the tried values, and per octave. A learning rate that is large enough always
# diverges, and within an octave the odds go from one side to the other (6 to 7 per octave in the runs of Step Law).
DIVERGENCE_LEVEL: Normal = (-3.0, 5.0)
DIVERGENCE_SLOPES: dict[str, Normal] = {"rate": (6.0, 2.0)}
OTHER_DIVERGENCE: Normal = (0.0, 2.0)
# 0.011 nats per octave squared at a loss of 2.4 in the runs of Step Law; small nets differ by powers of ten.
CURVATURE_PRIOR: Normal = (math.log(0.005), 3.0)
TREND_PRIOR: Normal = (0.0, 0.25)
SKEW_TREND_PRIOR: Normal = (0.0, 0.07)


def slope(tuned: str, axis: str) -> Normal:
    """Return mean and deviation of a tuned hyperparameter's exponent along an axis."""
    return SLOPES.get((quantity_of(tuned), quantity_of(axis)), OTHER_SLOPE)


def bend_scale(tuned: str, axis: str) -> float:
    """Return the scale of the curvature's tail, octaves per octave squared."""
    return BEND_SCALES.get((quantity_of(tuned), quantity_of(axis)), OTHER_BEND)


def bend_spreads(axes: int) -> tuple[Array, Array]:
    """Return combinations of spreads over the axes' scales, with their prior weights.

    Returns:
        (combinations, axes) and (combinations,).
    """
    if axes > OWN_BEND:
        return np.repeat(np.array(BEND_SPREADS)[:, None], axes, axis=1), np.array(BEND_SHARES)
    spreads, shares = (np.array(list(itertools.product(each, repeat=axes))) for each in (BEND_SPREADS, BEND_SHARES))
    return spreads, shares.prod(axis=1)


def divergence(tuned: Sequence[str], axes: int) -> tuple[Array, Array]:
    """Return means and deviations of the coefficients of divergence's log odds.

    Order: intercept, slope by tuned hyperparameter, slope by axis; log odds per octave.
    """
    slopes = [DIVERGENCE_SLOPES.get(quantity_of(name), OTHER_DIVERGENCE) for name in tuned]
    means, deviations = np.array([DIVERGENCE_LEVEL, *slopes, *[OTHER_DIVERGENCE] * axes]).T
    return means, deviations


def shape(tuned: Sequence[str]) -> ShapePrior:
    """Return the prior of the response shape over these hyperparameters."""
    quantities = [quantity_of(name) for name in tuned]
    pairs = [(quantities[k], quantities[j]) for k in range(len(quantities)) for j in range(k + 1, len(quantities))]
    return ShapePrior(
        curvature=CURVATURE_PRIOR,
        trend=TREND_PRIOR,
        skew=tuple(SKEWS.get(quantity, OTHER_SKEW) for quantity in quantities),
        skew_trend=SKEW_TREND_PRIOR,
        ridge=tuple(RIDGES.get(pair, OTHER_RIDGE) for pair in pairs),
    )


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """Prior of the response shape: independent normals, (mean, standard deviation).

    Attributes:
        curvature: of each a_k, log of the response per octave squared.
        trend: of every t_k,axis.
        skew: of kappa_k, by tuned hyperparameter.
        skew_trend: of every s_k,axis.
        ridge: of gamma_kj, by pair k < j.
    """

    curvature: tuple[float, float]
    trend: tuple[float, float]
    skew: tuple[tuple[float, float], ...]
    skew_trend: tuple[float, float]
    ridge: tuple[tuple[float, float], ...]

    def rows(self, tuned: int, axes: int) -> Array:
        """Return means and deviations of all shape parameters, (2, parameters)."""
        of_axes = tuned * axes
        normals = [self.curvature] * tuned + [self.trend] * of_axes
        normals += [*self.skew, *[self.skew_trend] * of_axes, *self.ridge]
        return np.array(normals, dtype=float).T
