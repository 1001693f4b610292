"""Columns in which runs differ, but that are neither scale nor tuned.

A setting is such a column by its known name. Any other column counts if its values separate the losses of runs at one
scale: the table then holds several experiments. Columns that follow from the scale or from a tuned column, and results,
do not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from hptransfer.analysis.tables.arrays import Array, Index, Runs
from hptransfer.analysis.tables.columns import SEED, Columns
from hptransfer.analysis.tables.quantities import SETTING_NAMES, is_size_or_budget, quantity_of
from hptransfer.analysis.tables.scale_names import format_size
from hptransfer.analysis.tables.sources import PREFIXES

# Words of names of results and of marks of a run, which do not cause a loss.
RESULT_WORDS = frozenset(
    (
        *("loss", "losses", "nll", "acc", "accuracy", "ppl", "perplexity", "bpb", "bpc", "score", "metric", "reward"),
        *("error", "diverged", "state", "status", "seed", "seconds", "minutes", "hours", "runtime", "duration"),
        *("timestamp", "elapsed", "wall", "walltime", "throughput", "mfu", "created", "updated", "heartbeat"),
    )
)
RESULT_NAMES = frozenset(("grad_norm", "gradient_norm", "time", "trial", "id", "run_id", "flops", "_step"))
# Rows and columns that are examined, values that a column of an experiment has at most, and those that a line names.
MOST_ROWS_EXAMINED, MOST_EXAMINED, MOST_VALUES, VALUES_NAMED = 20_000, 200, 50, 4
# Columns that a line names as the ones that separate the runs.
MOST_NAMED = 4
# Relative distance of sizes and durations below which they are the same, such as of steps of a rounded budget.
SAME_DURATION = 1.05
# Share of runs with another size than the median of their scale up to which they are strays, such as stopped runs.
STRAY_SHARE = 0.05
# Octaves by which a column that follows from others differs from a product of their powers, by rounding.
ROUNDED = 0.03
# Share of the variance of a size within a scale that a curve of the tuned values leaves.
CURVE_SHARE = 0.01
# A column separates losses if its levels explain this share of the variance, with this significance, and differ by this
# much in the response.
SHARE, SIGNIFICANCE, LEAST_EFFECT = 0.5, 1e-4, 0.002
# Degrees of freedom that must be left to judge it.
FEWEST_FREE = 4


@dataclass(frozen=True)
class UntunedColumn:
    """A column in which runs of one scale differ.

    Attributes:
        values: as text, the most frequent first.
        range: the least and the largest value of a column of numbers above 0.
        separates: its values separate the losses.
    """

    name: str
    values: Sequence[str]
    range: tuple[str, str] | None
    separates: bool

    @property
    def is_numeric(self) -> bool:
        """True if it can be a scale, with numbers above 0."""
        return self.range is not None

    def line(self) -> str:
        """Return the values as text, or the range of many numbers."""
        more = len(self.values) - VALUES_NAMED
        if self.range and more > 0:
            return f"from {self.range[0]} to {self.range[1]}"
        return ", ".join(self.values[:VALUES_NAMED]) + (f" and {more} more" if more > 0 else "")


def untuned_columns(table: pd.DataFrame, columns: Columns) -> list[UntunedColumn]:
    """Return the columns in which runs differ, separating ones first.

    Args:
        table: as check_table returns it.
    """
    rows = table[np.isfinite(table[columns.loss])]
    if len(rows) > MOST_ROWS_EXAMINED:
        rows = rows.sample(MOST_ROWS_EXAMINED, random_state=0)
    if rows.empty:
        return []
    runs = _Examined.of(rows, columns)
    used = {*columns.scales, *columns.tuned, columns.loss, SEED}
    candidates = [
        _Candidate.of(rows[name])
        for name in list(table.columns)[:MOST_EXAMINED]
        if name not in used and not _is_result(str(name)) and list(table.columns).count(name) == 1
    ]
    candidates = [candidate for candidate in candidates if candidate.varies() and not runs.implies(candidate)]
    separating = _separating(runs, candidates)
    settings = [
        candidate
        for candidate in candidates
        if candidate.is_setting()
        and candidate not in separating
        and runs.differs(candidate)
        and not any(_follows(candidate.codes, runs.scale_and(other)) for other in separating)
        and not runs.is_curve(candidate, _all_groups(runs, separating))
    ]
    return [
        *(candidate.column(separates=True) for candidate in separating),
        *(candidate.column(separates=False) for candidate in settings),
    ]


def order_separates(table: pd.DataFrame, columns: Columns) -> bool:
    """Return True if the order of repeats separates their losses.

    The first run of each point, the second and so on are then experiments, one below the other, without a column that
    tells them apart.

    Args:
        table: as check_table returns it.
    """
    rows = table[np.isfinite(table[columns.loss])]
    occurrence = rows.groupby([*columns.scales, *columns.tuned]).cumcount().rename("occurrence")
    if SEED in table or len(rows) > MOST_ROWS_EXAMINED or not 0 < occurrence.max() < MOST_VALUES:
        return False
    return _explained(_Examined.of(rows, columns), [], _Candidate.of(occurrence)) is not None


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A column that may be one.

    Attributes:
        codes: index of each row's value.
        values: distinct values; `numbers`, of every row, NaN where it is not one.
    """

    name: str
    codes: Index
    values: Sequence[Any]
    numbers: Array

    @classmethod
    def of(cls, column: pd.Series[Any]) -> _Candidate:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
        if not np.isfinite(numbers).any():
            numbers = np.full(len(column), np.nan)
        try:
            codes, values = pd.factorize(column, use_na_sentinel=False)
        except TypeError:  # lists and other values without a hash
            codes, values = pd.factorize(column.map(str), use_na_sentinel=False)
        return cls(str(column.name), codes.astype(np.intp), list(values), numbers)

    @property
    def bare_name(self) -> str:
        """Name without the prefix of another tool and the path to it."""
        return _bare_name(self.name)

    def is_setting(self) -> bool:
        """Return True for a known name."""
        return self.bare_name in SETTING_NAMES or is_size_or_budget(self.bare_name)

    def varies(self) -> bool:
        """Return True for several values, but not almost one a run."""
        count = len(self.values)
        return count > 1 and (self.is_setting() or count <= min(MOST_VALUES, len(self.codes) / 2))

    def column(self, *, separates: bool) -> UntunedColumn:
        """Return the column as it is reported."""
        order = np.argsort(-np.bincount(self.codes, minlength=len(self.values)), kind="stable")
        is_numeric = bool((self.numbers > 0).all())
        ends = (format_size(self.numbers.min()), format_size(self.numbers.max())) if is_numeric else None
        return UntunedColumn(self.name, [_value_text(self.values[index]) for index in order], ends, separates)


@dataclass(frozen=True, eq=False)
class _Examined:
    """Scales, points and responses of the runs that are examined.

    Attributes:
        axes, x: log2 of the scale and of the tuned values, (runs, axes) and (runs, tuned).
        y: responses.
        scale: index of each run's scale.
    """

    axes: Array
    x: Array
    y: Array
    scale: Index

    @classmethod
    def of(cls, rows: pd.DataFrame, columns: Columns) -> _Examined:
        axes = np.log2(rows[list(columns.scales)].to_numpy(dtype=float))
        scale = np.unique(axes, axis=0, return_inverse=True)[1].reshape(-1)
        x = np.log2(rows[list(columns.tuned)].to_numpy(dtype=float))
        return cls(axes, x, Runs.of(rows, columns).y, scale)

    def scale_and(self, candidate: _Candidate) -> Index:
        """Return the index of each run's scale and value."""
        return _groups(self.scale, candidate.codes)

    def implies(self, candidate: _Candidate) -> bool:
        """Return True if the column follows from scale or tuned values.

        The batch size counts even if it follows from the scale, because it changes the exponents.
        """
        if _follows(candidate.codes, self.scale):
            return quantity_of(candidate.bare_name) != "batch"
        for column in self.x.T:
            values = np.unique(column, return_inverse=True)[1].reshape(-1)
            # A setting at few scales may have a range by chance, unless equal tuned values always share it.
            may_follow = not candidate.is_setting() or (
                values.max() + 1 <= len(values) / 2 and _follows(candidate.codes, values)
            )
            if may_follow and self._has_ranges(candidate, column):
                return True
        return self._is_product_of_powers(candidate)

    def _has_ranges(self, candidate: _Candidate, column: Array) -> bool:
        """Return True if values have separate ranges of a tuned column."""
        order = np.lexsort((candidate.codes, column, self.scale))
        codes, scale = candidate.codes[order], self.scale[order]
        changes = int(((codes[1:] != codes[:-1]) & (scale[1:] == scale[:-1])).sum())
        pairs = len(np.unique(np.stack([scale, codes]), axis=1).T)
        return changes == pairs - len(np.unique(scale))

    def _is_product_of_powers(self, candidate: _Candidate) -> bool:
        if not (candidate.numbers > 0).all() or not np.isfinite(candidate.numbers).all():
            return False
        matrix = np.column_stack([np.ones(len(self.y)), self.axes, self.x])
        if len(matrix) <= matrix.shape[1] + 1:
            return False
        logs = np.log2(candidate.numbers)
        residuals = logs - matrix @ np.linalg.lstsq(matrix, logs, rcond=None)[0]
        return bool(np.abs(residuals).max() < ROUNDED)

    def is_curve(self, candidate: _Candidate, groups: Index) -> bool:
        """Return True for a curve of the tuned values within each group.

        Tokens are one where the parameters are tuned at fixed FLOPs.
        """
        if not (candidate.numbers > 0).all() or not np.isfinite(candidate.numbers).all():
            return False
        x = self.x - self.x.mean(axis=0)
        tuned = range(x.shape[1])
        features = [x[:, k] for k in tuned] + [x[:, k] * x[:, j] for k in tuned for j in range(k + 1)]
        matrix = _centred(np.column_stack([np.log2(candidate.numbers), *features]), groups, np.ones(len(x)))
        logs, free = matrix[:, 0], len(x) - int(groups.max()) - 1 - len(features)
        if free < len(x) / 3:
            return False
        residuals = logs - matrix[:, 1:] @ np.linalg.lstsq(matrix[:, 1:], logs, rcond=None)[0]
        return bool(residuals @ residuals < CURVE_SHARE * (logs @ logs))

    def differs(self, candidate: _Candidate) -> bool:
        """Return True if a setting differs by more than rounding and strays."""
        if not is_size_or_budget(candidate.bare_name) or quantity_of(candidate.bare_name) == "batch":
            return int(pd.notna(pd.Series(candidate.values)).sum()) > 1
        positive = candidate.numbers > 0
        if not positive.any():
            return False
        sizes = pd.Series(candidate.numbers[positive])
        usual = sizes.groupby(self.scale[positive]).transform("median")
        others = int((np.abs(np.log(sizes / usual)) > np.log(SAME_DURATION)).sum())
        return others > max(1, STRAY_SHARE * len(sizes))

    def unexplained(self, candidates: Sequence[_Candidate], weights: Array) -> tuple[float, int]:
        """Return the weighted residual sum of squares with its degrees of freedom.

        Every scale and combination of the columns' values has its own level; the response to the tuned columns is a
        cubic that moves with the scale.
        """
        groups = self.scale
        for candidate in candidates:
            groups = _groups(groups, candidate.codes)
        x = self.x - self.x.mean(axis=0)
        moving = self.axes[:, np.ptp(self.axes, axis=0) > 0]
        axes = moving - moving.mean(axis=0) if moving.shape[1] else moving
        tuned = range(x.shape[1])
        features = [x[:, k] for k in tuned] + [x[:, k] * x[:, j] for k in tuned for j in range(k + 1)]
        features += [x[:, k] ** 3 for k in tuned] + [x[:, k] * column for k in tuned for column in axes.T]
        matrix = np.column_stack([self.y, *features])
        centred = _centred(matrix, groups, weights)
        root = np.sqrt(weights)
        y, features_of = centred[:, 0] * root, centred[:, 1:] * root[:, None]
        scales = np.maximum(np.abs(features_of).max(axis=0), 1e-12)
        powers, _, rank, _ = np.linalg.lstsq(features_of / scales, y, rcond=1e-9)
        residuals = y - features_of / scales @ powers
        return float(residuals @ residuals), len(y) - int(groups.max()) - 1 - int(rank)


def _separating(runs: _Examined, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the columns whose values separate the losses, the strongest first."""
    chosen: list[_Candidate] = []
    left = [candidate for candidate in candidates if len(candidate.values) <= MOST_VALUES]
    while left and len(chosen) < MOST_NAMED:
        judged = [
            (share, candidate) for candidate in left if (share := _explained(runs, chosen, candidate)) is not None
        ]
        if not judged:
            break
        chosen.append(max(judged, key=lambda pair: pair[0])[1])
        left = [candidate for _, candidate in judged if not _follows(candidate.codes, _all_groups(runs, chosen))]
    return chosen


def _explained(runs: _Examined, chosen: Sequence[_Candidate], candidate: _Candidate) -> float | None:
    """Return the share of the variance that a further column explains.

    It is None if the column does not separate the losses.
    """
    groups = _groups(_all_groups(runs, chosen), candidate.codes)
    best = np.full(groups.max() + 1, np.inf)
    np.minimum.at(best, groups, runs.y)
    excess = runs.y - best[groups]
    weights = 1 / (max(float(np.quantile(excess, 0.25)), 1e-3) + excess) ** 2
    before, free_before = runs.unexplained(chosen, weights)
    after, free_after = runs.unexplained([*chosen, candidate], weights)
    levels = free_before - free_after
    if levels < 1 or free_after < FEWEST_FREE or before <= 0:
        return None
    after = max(after, 1e-12 * before)
    ratio = (before - after) / levels / (after / free_after)
    effect = float(np.sqrt(max(0.0, before - after) / weights.sum()))
    unexplained = after / free_after / (before / free_before)
    if unexplained > 1 - SHARE or effect < LEAST_EFFECT or f_distribution.sf(ratio, levels, free_after) > SIGNIFICANCE:
        return None
    return 1 - unexplained


def _all_groups(runs: _Examined, chosen: Sequence[_Candidate]) -> Index:
    groups = runs.scale
    for candidate in chosen:
        groups = _groups(groups, candidate.codes)
    return groups


def _centred(matrix: Array, groups: Index, weights: Array) -> Array:
    """Return columns minus their weighted mean of each group."""
    total = np.bincount(groups, weights)
    centred: Array = np.stack(
        [column - (np.bincount(groups, weights * column) / total)[groups] for column in matrix.T], axis=1
    )
    return centred


def _groups(first: Index, second: Index) -> Index:
    """Return the index of each pair."""
    pairs = first.astype(np.int64) * (int(second.max()) + 1) + second
    index: Index = np.unique(pairs, return_inverse=True)[1].reshape(-1).astype(np.intp)
    return index


def _follows(codes: Index, groups: Index) -> bool:
    """Return True if all rows of a group have one code."""
    return int(_groups(groups, codes).max()) == int(np.unique(groups, return_inverse=True)[1].max())


def _is_result(name: str) -> bool:
    bare_name = _bare_name(name)
    if bare_name in SETTING_NAMES or (is_size_or_budget(bare_name) and bare_name not in RESULT_NAMES):
        return False
    return (
        bare_name in RESULT_NAMES
        or bare_name.startswith("_")
        or bool(RESULT_WORDS & {*re.split(r"[^a-z0-9]+", bare_name)})
    )


def _bare_name(name: str) -> str:
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return re.split(r"[./]", name.removeprefix(prefix).lower())[-1]


def _value_text(value: Any) -> str:
    """Return a value as a line names it."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "none"
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return format_size(float(value))
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
