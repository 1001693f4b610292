"""Distance from the outermost tried value to an optimum beyond it.

A parabola in nats through the values next to the edge places the optimum where its slope ends. Its curvature is common
to all scales. Where the slope does not flatten, the optimum is taken to lie at least as far away as the tried range is
wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Runs

# Values next to the edge that the parabola is fitted to; farther ones are on a steeper part.
NEAR_EDGE = 4
# Distance of an optimum whose slope does not flatten, in widths of the tried range: from the first to the second.
UNBENT = (1.0, 2.0)
# Largest value of the least distance, in these widths: a steep bowl is nearly straight far from its optimum.
NEARLY_STRAIGHT = 4.0
# Octaves beyond the edge up to which values are proposed.
FARTHEST = 12.0
# Ratio of neighbouring distances.
RATIO = 2.0


def distances_beyond(runs: Runs, index: int, k: int, side: int, step: float) -> list[float]:
    """Return distances of runs that reach both sides of an optimum.

    They are octaves from a scale's outermost value. They grow geometrically from half the optimum's least distance to
    twice its largest.

    Args:
        index: of a scale whose best run is the outermost one.
        k: hyperparameter.
        side: 1 for an optimum above the tried values, -1 for one below.
        step: least distance, octaves.
    """
    nearest, farthest = _optimum_distance(runs, index, k, side)
    first, last = max(nearest / 2, step), min(max(2 * farthest, 2 * step), FARTHEST)
    if _has_other_side(runs, k, side):  # the optimum moves across the edge within the table
        last = min(last, 2 * max(step, _width(runs, index, k)))
    first = min(first, last)
    count = 1 + max(1, round(float(np.log(last / first) / np.log(RATIO))))
    return [float(distance) for distance in np.unique(np.geomspace(first, last, count))]


def _optimum_distance(runs: Runs, index: int, k: int, side: int) -> tuple[float, float]:
    """Return the least and the largest likely distance, octaves."""
    lines = [_Line.of(runs, each, k, side) for each in range(runs.num_scales)]
    own, width = lines[index], _width(runs, index, k)
    unbent = UNBENT[0] * width, UNBENT[1] * width
    bent = [line for line in lines if len(line.u) > 2]
    if not bent or len(own.u) < 2:
        return unbent
    squares = np.concatenate([line.bend() for line in bent])
    curved = np.concatenate([line.losses_less_slope() for line in bent])
    curvature = float(squares @ curved / (squares @ squares))
    free = max(sum(len(line.u) - 2 for line in bent) - 1, 1)
    error = float(np.sqrt(np.sum((curved - curvature * squares) ** 2) / free / (squares @ squares)))
    slope = own.slope_at_edge(curvature)
    if slope <= 0:  # it is best by noise alone
        return 0.0, 0.0
    steepest, flattest = curvature + error, curvature - error
    if curvature <= 0 or steepest <= 0:
        return unbent
    nearest = min(slope / (2 * steepest), NEARLY_STRAIGHT * width)
    return nearest, slope / (2 * flattest) if flattest > 0 else max(UNBENT[1] * nearest, unbent[1])


def _width(runs: Runs, index: int, k: int) -> float:
    """Return the octaves from a scale's least to its largest finite value."""
    return float(np.ptp(runs.x[runs.of_scale(index) & np.isfinite(runs.loss), k]))


def _has_other_side(runs: Runs, k: int, side: int) -> bool:
    """Return True if another scale is best at its other end."""
    for index in range(runs.num_scales):
        line = _Line.of(runs, index, k, side, near_edge=False)
        if len(line.u) > 1 and int(np.argmin(line.loss)) == len(line.u) - 1:
            return True
    return False


@dataclass(frozen=True, eq=False)
class _Line:
    """Least losses of a scale by octaves from its outermost value.

    Attributes:
        u: octaves inwards from the edge, 0 there, ascending.
        loss: nats.
    """

    u: Array
    loss: Array

    @classmethod
    def of(cls, runs: Runs, index: int, k: int, side: int, *, near_edge: bool = True) -> _Line:
        """Return the line of a scale."""
        finite = runs.of_scale(index) & np.isfinite(runs.loss)
        if not finite.any():
            return cls(np.empty(0), np.empty(0))
        inwards = -side * runs.x[finite, k]
        u, point = np.unique(np.round(inwards - inwards.min(), 9), return_inverse=True)
        least = np.full(len(u), np.inf)
        np.minimum.at(least, point.reshape(-1), runs.loss[finite])
        most = NEAR_EDGE if near_edge else len(u)
        return cls(u[:most], least[:most])

    def bend(self) -> Array:
        """Return u squared less its straight line, (values,)."""
        return self._less_slope(self.u**2)

    def losses_less_slope(self) -> Array:
        """Return the losses less their straight line, (values,)."""
        return self._less_slope(self.loss)

    def slope_at_edge(self, curvature: float) -> float:
        """Return the rise of the loss inwards at the edge, per octave."""
        return float(self._straight(self.loss - curvature * self.u**2)[1])

    def _straight(self, values: Array) -> Array:
        matrix = np.column_stack([np.ones(len(self.u)), self.u])
        coefficients: Array = np.linalg.lstsq(matrix, values, rcond=None)[0]
        return coefficients

    def _less_slope(self, values: Array) -> Array:
        intercept, slope = self._straight(values)
        rest: Array = values - intercept - slope * self.u
        return rest
