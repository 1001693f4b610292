"""Selection of the runs that a response surface is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Index, Mask, Runs

# Log loss above the scale's best beyond which a point has no information about the optimum; of every scale this number
# of points, plus one for each tuned hyperparameter, is kept in any case: the sides of a steep bowl need them.
FAR_LOG_LOSS = 0.4
KEPT = 4
# Difference of responses between sound seeds of a scale.
SEED_SPREAD = 0.1
# From this number of points a scale may have an outlier, with a response this far below all others.
MANY, OUTLIER = 6, 0.12


@dataclass(frozen=True, eq=False)
class SelectedRuns:
    """The runs that are fitted.

    Attributes:
        x: log2 of the tuned values, (runs, tuned).
        y: responses, (runs,).
        scale, intercept: index of each run's scale and intercept.
        octaves: log2 of every scale's axes over their middle, (scales, axes).
    """

    x: Array
    y: Array
    scale: Index
    intercept: Index
    octaves: Array

    def centred(self, weights: Array, columns: Array) -> Array:
        """Return the columns minus their weighted mean within each intercept.

        This is their projection once the intercepts are free.
        """
        total = np.bincount(self.intercept, weights)
        centred = np.empty_like(columns)
        for k, column in enumerate(columns.T):
            centred[:, k] = column - (np.bincount(self.intercept, weights * column) / total)[self.intercept]
        return centred

    def summed(self, rows: Array) -> Array:
        """Return sums of rows by scale."""
        sums: Array = np.stack([np.bincount(self.scale, column, len(self.octaves)) for column in rows.T], axis=1)
        return sums


def select_runs(runs: Runs) -> tuple[Index, SelectedRuns]:
    """Select the finite runs near the best of their scale.

    Repeats of a point are selected together, by the lower median of their responses, so that neither a lucky nor a
    broken run decides. Losses are relative to the least loss with the same intercept. Broken seeds are left out.

    Returns:
        Positions of the runs, and the runs.
    """
    finite = np.flatnonzero(np.isfinite(runs.loss) & ~broken_seeds(runs))
    x, y, intercept = runs.x[finite], runs.y[finite], runs.intercept[finite]
    least = np.full(runs.intercept.max() + 1, np.inf)
    np.minimum.at(least, intercept, y)
    points, point = np.unique(np.column_stack([runs.scale[finite], x]), axis=0, return_inverse=True)
    point = point.reshape(-1)
    level = _lower_medians(point, y - least[intercept])
    order = np.lexsort((level, points[:, 0]))
    fewest = KEPT + runs.x.shape[1]
    close = np.zeros(len(points), dtype=bool)
    for of_scale in np.split(order, np.flatnonzero(np.diff(points[order, 0])) + 1):
        sound = of_scale[int(_has_outlier(points[of_scale, 1:], level[of_scale])) :]
        close[sound[level[sound] < level[sound[0]] + FAR_LOG_LOSS]] = True
        close[sound[:fewest]] = True
    kept = finite[close[point]]
    intercept = np.unique(runs.intercept[kept], return_inverse=True)[1].reshape(-1)
    return kept, SelectedRuns(runs.x[kept], runs.y[kept], runs.scale[kept], intercept, runs.octaves(runs.scales))


def broken_seeds(runs: Runs) -> Mask:
    """Return True for the runs of seeds that broke, (runs,).

    The responses of a seed that broke lie by more than SEED_SPREAD above the best ones at the same points. The median
    over its points counts, relative to the lowest one of the scale's seeds.
    """
    finite = np.flatnonzero(np.isfinite(runs.loss))
    y, scale, intercept = runs.y[finite], runs.scale[finite], runs.intercept[finite]
    points = np.unique(np.column_stack([scale, runs.x[finite]]), axis=0, return_inverse=True)[1].reshape(-1)
    best = np.full(points.max(initial=0) + 1, np.inf)
    np.minimum.at(best, points, y)
    level = _lower_medians(intercept, y - best[points])[intercept]
    lowest = np.full(len(runs.scales), np.inf)
    np.minimum.at(lowest, scale, level)
    broken = np.zeros(len(runs.loss), dtype=bool)
    broken[finite] = level > lowest[scale] + SEED_SPREAD
    return broken


def _lower_medians(group: Index, values: Array) -> Array:
    """Return the lower median of the values of each group, (groups,)."""
    order = np.lexsort((values, group))
    count = np.bincount(group)
    medians: Array = values[order][np.cumsum(count) - count + (count - 1) // 2]
    return medians


def _has_outlier(x: Array, y: Array) -> bool:
    """Return True if a scale's lowest loss is an outlier.

    It then lies far below all other losses, and the second best point is not among its neighbours.

    Args:
        x, y: log2 of the scale's points and their responses, losses ascending.
    """
    if len(y) < MANY or y[1] - y[0] <= OUTLIER:
        return False
    nearest = np.argsort(np.abs(x[1:] - x[0]).max(axis=1))[: 2 * x.shape[1]]
    return 0 not in nearest
