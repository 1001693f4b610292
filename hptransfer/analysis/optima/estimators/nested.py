"""Nested: minimum of splines over one hyperparameter at a time (Porian).

The protocol of arXiv:2406.19146: the best learning rate at every batch size by an Akima spline of the log loss, then
the best batch size of those. A minimum at the end of the tried values (outside the second and the second-to-last
point) does not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array

# Grid points between two knots, and knots that a minimum needs.
FINE = 100
FEWEST_KNOTS = 3


class Nested(ByScale):
    """Estimator by nested spline interpolation."""

    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        point = minimum(x, np.log(losses))
        return None if point is None else (point[0], float(np.exp(point[1])))


def minimum(x: Array, y: Array) -> tuple[Array, float] | None:
    """Return the nested minimum over the columns of x, with its value.

    None if the minimum is at an end, or if there are too few points.
    """
    if x.shape[1] == 1:
        knots = np.unique(x[:, 0])
        best = [(np.array([knot]), float(y[x[:, 0] == knot].min())) for knot in knots]
        return _spline_minimum(knots, best)
    outer_knots, inner_minima = [], []
    for knot in np.unique(x[:, -1]):
        row = x[:, -1] == knot
        inner = minimum(x[row][:, :-1], y[row])
        if inner is not None:
            outer_knots.append(knot)
            inner_minima.append((np.append(inner[0], knot), inner[1]))
    return _spline_minimum(np.array(outer_knots), inner_minima)


def _spline_minimum(knots: Array, best: Sequence[tuple[Array, float]]) -> tuple[Array, float] | None:
    """Return the minimum of a spline through the knots' best values.

    Args:
        best: point and value at each knot; the point is interpolated by splines too.
    """
    if len(knots) < FEWEST_KNOTS:
        return None
    spline = Akima1DInterpolator if len(knots) >= 5 else PchipInterpolator
    fine = np.concatenate([np.linspace(low, high, FINE, endpoint=False) for low, high in itertools.pairwise(knots)])
    values = spline(knots, [value for _, value in best])(fine)
    lowest = int(np.argmin(values))
    if not knots[1] <= fine[lowest] <= knots[-2]:
        return None
    point = spline(knots, np.array([point for point, _ in best]))(fine[lowest])
    point[-1] = fine[lowest]
    return point, float(values[lowest])


ESTIMATORS.register("nested")(Nested())
