"""Nested: interpolate log loss against one hyperparameter at a time and take the minimum (Porian, arXiv:2406.19146).

The best learning rate at every batch size by an Akima spline, then the best batch size of those; a
minimum at the end of what was tried is none (outside the second and the second-to-last point).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from hptransfer.analysis.optima.estimators import ESTIMATORS, ByScale
from hptransfer.analysis.tables.arrays import Array

FINE = 100
FEWEST = 3


class Nested(ByScale):
    def optimum(self, x: Array, losses: Array) -> tuple[Array, float] | None:
        found = minimum(x, np.log(losses))
        return None if found is None else (found[0], float(np.exp(found[1])))


def minimum(x: Array, y: Array) -> tuple[Array, float] | None:
    """Place and value of the nested minimum over the columns of x; None if it is at an end, or points are too few."""
    if x.shape[1] == 1:
        places = np.unique(x[:, 0])
        best = [(np.array([place]), float(y[x[:, 0] == place].min())) for place in places]
        return _along(places, best)
    found_at, found_best = [], []
    for place in np.unique(x[:, -1]):
        at = x[:, -1] == place
        found = minimum(x[at][:, :-1], y[at])
        if found is not None:
            found_at.append(place)
            found_best.append((np.append(found[0], place), found[1]))
    return _along(np.array(found_at), found_best)


def _along(places: Array, best: Sequence[tuple[Array, float]]) -> tuple[Array, float] | None:
    """The minimum of splines through what is best at each place: of the value and of where it is."""
    if len(places) < FEWEST:
        return None
    kind = Akima1DInterpolator if len(places) >= 5 else PchipInterpolator
    fine = np.concatenate([np.linspace(low, high, FINE, endpoint=False) for low, high in itertools.pairwise(places)])
    values = kind(places, [value for _, value in best])(fine)
    at = int(np.argmin(values))
    if not places[1] <= fine[at] <= places[-2]:
        return None
    where = kind(places, np.array([place for place, _ in best]))(fine[at])
    where[-1] = fine[at]
    return where, float(values[at])


ESTIMATORS.register("nested")(Nested())
