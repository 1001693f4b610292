"""Which runs a surface is fitted to: the finite ones near the best of their scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.tables.arrays import Array, Index, Runs

# Log loss above the scale's best beyond which a setting says nothing of where the best is; but of every scale one
# setting for each tuned hyperparameter and so many more are kept in any case.
FAR = 0.4
KEPT = 2
# Of so many settings of a scale one may be a stray, if its log loss is so far below all others.
MANY, STRAY = 6, 0.12


@dataclass(frozen=True, eq=False)
class SelectedRuns:
    """The runs that are fitted; x, log losses, scale and intercept of each."""

    x: Array
    y: Array
    scale: Index
    intercept: Index
    octaves: Array

    def centred(self, weights: Array, columns: Array) -> Array:
        """Columns less their weighted mean within each intercept: what is left of them once intercepts are free."""
        total = np.bincount(self.intercept, weights)
        found = np.empty_like(columns)
        for place, column in enumerate(columns.T):
            found[:, place] = column - (np.bincount(self.intercept, weights * column) / total)[self.intercept]
        return found

    def summed(self, rows: Array) -> Array:
        """Sums of rows by scale."""
        found: Array = np.stack([np.bincount(self.scale, column, len(self.octaves)) for column in rows.T], axis=1)
        return found


def select_runs(runs: Runs) -> tuple[Index, SelectedRuns]:
    """The finite runs near the best of their scale, in log loss; repeats of a setting together, by their mean.

    Levels are taken over the least of what shares a intercept, so that a lucky seed does not pass for a better setting.
    """
    finite = np.flatnonzero(np.isfinite(runs.loss))
    x, y, intercept = runs.x[finite], np.log(runs.loss[finite]), runs.intercept[finite]
    least = np.full(runs.intercept.max() + 1, np.inf)
    np.minimum.at(least, intercept, y)
    settings, setting = np.unique(np.column_stack([runs.scale[finite], x]), axis=0, return_inverse=True)
    setting = setting.reshape(-1)
    level = np.bincount(setting, y - least[intercept]) / np.bincount(setting)
    order = np.lexsort((level, settings[:, 0]))
    few = KEPT + runs.x.shape[1]
    close = np.zeros(len(settings), dtype=bool)
    for own in np.split(order, np.flatnonzero(np.diff(settings[order, 0])) + 1):
        sound = own[int(_stray(settings[own, 1:], level[own])) :]
        close[sound[level[sound] < level[sound[0]] + FAR]] = True
        close[sound[:few]] = True
    kept = finite[close[setting]]
    intercept = np.unique(runs.intercept[kept], return_inverse=True)[1].reshape(-1)
    return kept, SelectedRuns(
        runs.x[kept], np.log(runs.loss[kept]), runs.scale[kept], intercept, runs.octaves(runs.scales)
    )


def _stray(x: Array, y: Array) -> bool:
    """Whether a scale's lowest loss lies far below all others and away from the next best: a mistake, no optimum.

    Args:
        x, y: of the scale's settings, losses ascending.
    """
    if len(y) < MANY or y[1] - y[0] <= STRAY:
        return False
    nearest = np.argsort(np.abs(x[1:] - x[0]).max(axis=1))[: 2 * x.shape[1]]
    return 0 not in nearest
