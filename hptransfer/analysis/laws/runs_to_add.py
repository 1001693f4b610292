"""Cheapest runs that would make a refused fit possible.

A refusal knows only the table, so a run is named by its columns. Scales are in order of their cost, by the column of
FLOPs or by the product of the axes.
"""

from __future__ import annotations

import csv
import io
import itertools
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.laws.edge_distance import distances_beyond
from hptransfer.analysis.tables.arrays import Array, Axes, Index, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.quantities import quantity_of
from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import FitError
from hptransfer.core.records import LONG_NUMBER, exact, plain_exponent

# Bounds of the step between added values, in octaves, and the step where the table has none.
LEAST_STEP, MOST_STEP, STEP = 0.5, 3.4, 1.0
# Steps beyond the tried values of a hyperparameter that moves the losses by little more than noise.
WIDE_STEPS = 2
# Octaves within which a value counts as tried.
TRIED_OCTAVES = 0.2
# Decimal digits to which a new value is rounded.
DIGITS = 3
# Points of suspected runs that are repeated.
MOST_REPEATS = 4
# Largest value up to which whole numbers may be something else than counts.
SMALL_COUNTS = 2
# Relative distance of a whole number from the power of two of its logarithm.
WHOLE = 1e-9
# File that the pasted command writes.
ADDED_FILE = "runs_to_add.csv"


@dataclass(frozen=True, eq=False)
class AddedRuns:
    """Runs to add at one scale.

    Attributes:
        points: log2 of the tuned values, (runs, tuned).
    """

    axes: Axes
    points: Array

    def values(self) -> list[tuple[float, ...]]:
        """Return the tuned values of every run."""
        return [tuple(canonical(2.0**x) for x in point) for point in self.points]


class TooFewRunsError(FitError):
    """FitError of runs that do not suffice for a fit.

    Attributes:
        reason: what is wrong with the runs, and what would help.
        added: the cheapest runs that would help.
        command: these runs as text to paste.
        together: the reason that holds for runs of several experiments; blank if the losses do not matter.
    """

    def __init__(self, reason: str, columns: Columns, added: Sequence[AddedRuns], *, together: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.added = added
        self.command = format_added(columns, added) if added else ""
        self.together = together

    def __str__(self) -> str:
        command = f"; {self.command}" if self.command else ""
        if self.note and self.together:  # further runs do not make one experiment of several
            return f"{self.together}{self.note}"
        return f"{self.reason}{command}{self.note}"


def format_added(columns: Columns, added: Sequence[AddedRuns]) -> str:
    """Return a shell command that writes runs as rows without losses."""
    rows = [[*columns.scales, *columns.tuned, columns.loss]]
    for runs in added:
        scale = [_exact(float(runs.axes[axis])) for axis in columns.scales]
        rows += [[*scale, *map(_exact, values), ""] for values in runs.values()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    lines = " ".join(map(shlex.quote, text.getvalue().splitlines()))
    return f"the runs to add, as rows whose {columns.loss} is to be filled in: `printf '%s\\n' {lines} > {ADDED_FILE}`"


def _exact(value: float) -> str:
    return plain_exponent(exact(value) if value < LONG_NUMBER else repr(value))


@dataclass(frozen=True, eq=False)
class RunPlanner:
    """Proposals of runs for a table that does not suffice."""

    runs: Runs

    def is_usable(self, index: int) -> bool:
        """Return True if a run of the scale did not diverge."""
        return bool(np.isfinite(self.runs.loss[self.runs.of_scale(index)]).any())

    def new_scales(self, count: int) -> list[AddedRuns]:
        """Return runs around the likely optimum of the cheapest new scales."""
        return [AddedRuns(axes, self._star(self._centre())) for axes in itertools.islice(self._free_scales(), count)]

    def diverged_scales(self, count: int) -> list[AddedRuns]:
        """Return runs at lower values for scales whose runs all diverged."""
        diverged = [index for index in range(self.runs.num_scales) if not self.is_usable(index)]
        known = len(diverged) < self.runs.num_scales
        k = next((k for k, name in enumerate(self.runs.columns.tuned) if quantity_of(name) == "rate"), 0)
        added = []
        for index in diverged[:count]:
            centre = self._centre()
            lowest = self.runs.x[self.runs.of_scale(index), k].min()
            # Where nothing is known of the optimum, it may be far below.
            below = min(centre[k], lowest - 2 * self._step(k)) if known else lowest - 2 * MOST_STEP
            centre[k] = self._rounded(float(below), k)
            added.append(AddedRuns(self.runs.scales[index], self._star(centre, None if known else MOST_STEP)))
        return added

    def further_values(self, k: int, count: int) -> list[AddedRuns]:
        """Return runs beyond the better end of the tried values.

        Args:
            count: number of scales, the cheapest ones; also below.
        """
        return self._along(k, count, lambda index: self._better_side(index, k))

    def both_sides(self, k: int, count: int) -> list[AddedRuns]:
        """Return runs on the sides of the best run that lack one.

        At a scale that has runs on both sides, they are nearer to the best one.
        """
        return self._along(k, count, lambda index: self._sides(index, k))

    def farther_apart(self, k: int, count: int) -> list[AddedRuns]:
        """Return runs well beyond both ends of the tried values."""

        def wide(index: int) -> list[float]:
            tried = self.runs.x[self.runs.of_scale(index), k]
            beyond = max(WIDE_STEPS * max(self._step(k), STEP), float(np.ptp(tried)))
            return [float(tried.min()) - beyond, float(tried.max()) + beyond]

        return self._along(k, count, wide)

    def repeats(self, rows: Index) -> list[AddedRuns]:
        """Return repeats of the cheapest of some runs.

        Args:
            rows: positions of the runs.
        """
        cheapest = int(self.runs.scale[rows].min())
        points = np.unique(self.runs.x[rows[self.runs.scale[rows] == cheapest]], axis=0)
        return [AddedRuns(self.runs.scales[cheapest], points[:MOST_REPEATS])]

    def at_scales(self, ks_by_scale: Sequence[tuple[int, Sequence[int]]]) -> list[AddedRuns]:
        """Return runs on both sides of the best one of given scales.

        Args:
            ks_by_scale: index of each scale, with the hyperparameters along which it lacks runs.
        """
        added = []
        for index, ks in ks_by_scale:
            points = [point for k in ks for point in self._line(index, k, self._sides(index, k))]
            if points:
                added.append(AddedRuns(self.runs.scales[index], np.array(points)))
        return added

    def _along(self, k: int, count: int, values_of: Callable[[int], Sequence[float]]) -> list[AddedRuns]:
        usable = [index for index in range(self.runs.num_scales) if self.is_usable(index)]
        return [
            AddedRuns(self.runs.scales[index], np.array(points))
            for index in usable[:count]
            if (points := self._line(index, k, values_of(index)))
        ]

    def _line(self, index: int, k: int, values: Sequence[float]) -> list[Array]:
        """Return a scale's best point with other values of one hyperparameter."""
        best, upper = self._best(index), float(self.runs.columns.upper[k])
        points = []
        for x in dict.fromkeys(min(self._rounded(value, k), upper) for value in values):
            if x != best[k]:  # such as half of a batch of 1
                points.append(best.copy())
                points[-1][k] = x
        return points

    def _rounded(self, x: float, k: int) -> float:
        """Return a rounded value, whole if all of the table are."""
        tried = 2.0 ** self.runs.x[:, k]
        is_count = quantity_of(self.runs.columns.tuned[k]) != "rate" and tried.max() > SMALL_COUNTS
        is_whole = is_count and bool(np.all(np.abs(tried - np.round(tried)) < WHOLE * tried))
        value = float(f"{2.0**x:.{DIGITS}g}")
        return float(np.log2(max(1, round(value)) if is_whole else value))

    def _better_side(self, index: int, k: int) -> list[float]:
        """Return the value beyond the better end, or around a single one."""
        tried, best, step = self.runs.x[self.runs.of_scale(index), k], float(self._best(index)[k]), self._step(k)
        if tried.min() == tried.max():
            return [best - step, best + step]
        side = 1 if best == tried.max() else -1
        return [best + side * away for away in distances_beyond(self.runs, index, k, side, step)]

    def _sides(self, index: int, k: int) -> list[float]:
        """Return values on the sides of the best run.

        They are beyond the edge as far as the losses' slope tells, between the best run and one that diverged, or
        nearer to the best run.
        """
        of_scale = self.runs.of_scale(index)
        finite = of_scale & np.isfinite(self.runs.loss)
        best, step = float(self._best(index)[k]), self._step(k)
        diverged = self.runs.x[of_scale & ~finite, k]
        below = self.runs.x[finite & (self.runs.x[:, k] < best - 1e-9), k]
        above = self.runs.x[finite & (self.runs.x[:, k] > best + 1e-9), k]
        if len(below) and len(above):
            return [(best + float(below.max())) / 2, (best + float(above.min())) / 2]
        values = []
        if not len(below):
            values = [best - away for away in reversed(distances_beyond(self.runs, index, k, -1, step))]
        if len(above):
            return values
        limits = diverged[diverged > best + TRIED_OCTAVES]
        if len(limits):  # a run between the best one and the next that diverged
            return [*values, (best + float(limits.min())) / 2]
        return [*values, *(best + away for away in distances_beyond(self.runs, index, k, 1, step))]

    def _best(self, index: int) -> Array:
        finite = np.flatnonzero(self.runs.of_scale(index) & np.isfinite(self.runs.loss))
        best: Array = self.runs.x[finite[np.argmin(self.runs.loss[finite])]]
        return best

    def _centre(self) -> Array:
        """Return the best point of the cheapest scale, else the lowest values."""
        usable = next((index for index in range(self.runs.num_scales) if self.is_usable(index)), None)
        if usable is not None:
            return self._best(usable).copy()
        lowest: Array = self.runs.x.min(axis=0)
        return lowest

    def _star(self, centre: Array, step: float | None = None) -> Array:
        """Return a point with its neighbours along each hyperparameter.

        Args:
            step: distance in octaves; None: the usual one of each hyperparameter.
        """
        points = [centre]
        for k in range(len(centre)):
            for away in (-1, 1):
                point = centre.copy()
                point[k] = self._rounded(float(centre[k]) + away * (step or self._step(k)), k)
                points.append(point)
        return np.minimum(points, self.runs.columns.upper)

    def _step(self, k: int) -> float:
        """Return the usual step between neighbouring values of a hyperparameter, in octaves."""
        steps = [
            np.diff(np.unique(np.round(self.runs.x[self.runs.of_scale(index), k], 6)))
            for index in range(self.runs.num_scales)
        ]
        every = np.concatenate(steps)
        return float(np.clip(np.median(every), LEAST_STEP, MOST_STEP)) if len(every) else STEP

    def _free_scales(self) -> Iterator[Axes]:
        """Yield scales without runs, the cheapest first.

        They combine swept values; where all combinations have runs, one axis has half or twice its smallest or
        largest value.
        """
        taken = {tuple(axes.values()) for axes in self.runs.scales}
        axes = self.runs.columns.scales
        values = [sorted({scale[axis] for scale in self.runs.scales}) for axis in axes]
        free = sorted((point for point in itertools.product(*values) if point not in taken), key=np.prod)
        yield from (dict(zip(axes, point, strict=True)) for point in free)
        smallest, largest = values[0][0], values[0][-1]
        for _ in range(len(self.runs.scales) + len(axes)):
            halved = smallest / 2
            if smallest > 1 and (halved % 1 == 0 or smallest % 1):
                smallest = new = halved
            else:
                largest = new = 2 * largest
            yield {axes[0]: new, **{axis: column[0] for axis, column in zip(axes[1:], values[1:], strict=True)}}
