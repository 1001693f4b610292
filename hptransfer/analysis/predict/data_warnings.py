"""Warnings of problems in the table that the fit cannot detect.

They make a prediction less certain than its interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.laws.repeats import level_difference
from hptransfer.analysis.predict.untuned_columns import UntunedColumn, order_separates, untuned_columns
from hptransfer.analysis.tables.arrays import Runs
from hptransfer.analysis.tables.columns import OPTIMIZER_STEP, SEED, Columns
from hptransfer.analysis.tables.quantities import quantity_of
from hptransfer.analysis.tables.scale_names import format_size
from hptransfer.analysis.tables.table_checks import first_row
from hptransfer.core.records import plain_exponent, short

# Columns that a line names.
COLUMNS_NAMED = 4
# Octaves from the swept scales beyond which extrapolation is unreliable.
FAR_OCTAVES = 4.0
# Fewer optimizer steps than this measure the warm-up rather than training.
FEW_STEPS = 50
# Correlation of the logs of two axes above which their effects cannot be separated.
CONFOUNDED = 0.95
# A target this many octaves outside the range of an axis may be in another unit: a sequence is 2^9 tokens or more.
OTHER_UNIT = 8.0
# Batch sizes below the first are sequences, and above the second tokens.
MOST_SEQUENCES, FEWEST_TOKENS = 2**14, 2**15
# Ratio of two sizes below which they were probably meant to be one; a grid has larger steps.
SAME_SIZE = 1.02
# Ratio of neighbouring batch sizes that no sweep has.
GAP = 16


def table_warnings(table: pd.DataFrame, columns: Columns, targets: pd.DataFrame) -> list[str]:
    """Return all warnings that need no fit, one line each.

    Args:
        table: as check_table returns it.
        targets: scales to predict for, one row each.
    """
    runs = Runs.of(table, columns)
    swept = SweptAxes.of(runs.scales).values
    return [
        *_fitted_differences(table, columns),
        *_far_targets(runs, swept, targets),
        *_few_steps(table, columns),
        *_split_scales(swept),
        *_mixed_settings(table, columns),
        *_confounded(runs, swept),
        *_units(table, columns),
        *_units_of_targets(targets, swept),
    ]


def _few_steps(table: pd.DataFrame, columns: Columns) -> list[str]:
    """Return a warning of runs that are hardly longer than a warm-up.

    A script calls anything a step, such as an epoch, so that its steps say nothing.
    """
    if "steps" not in table or not columns.step:
        return []
    trained = table[np.isfinite(table[columns.loss])]
    steps = trained.loc[trained["steps"] > 0, "steps"].min()  # 0: imported without steps
    if not steps < FEW_STEPS:
        return []
    if columns.step != OPTIMIZER_STEP:
        return [
            f"the column steps has values down to {int(steps)}: if they count optimizer steps, the optimum of these "
            "runs may differ from that of long training"
        ]
    few = "1 optimizer step" if steps == 1 else f"{int(steps)} optimizer steps"
    return [f"some runs have only {few}: their optimum may differ from that of long training"]


def _fitted_differences(table: pd.DataFrame, columns: Columns) -> list[str]:
    """Return a warning of losses without a logarithm, perhaps by mistake."""
    below = table[table[columns.loss] <= 0]
    if columns.objective.maximized or below.empty:
        return []
    return [
        f"{len(below)} of {len(table)} values of {columns.loss} are at or below 0, such as "
        f"{short(float(below[columns.loss].iloc[0]))} in {first_row(below)}: differences are fitted, not logarithms"
    ]


def pooled_runs(table: pd.DataFrame, columns: Columns) -> str:
    """Return a note for a refusal of several pooled experiments.

    The runs of one experiment alone may show an optimum. A column tells them apart, or levels of the losses do. It is
    blank without either.
    """
    names = [column.name for column in untuned_columns(table, columns) if column.separates]
    if not names:
        return "".join(f"; {line}" for line in _pooled_levels(table, columns))
    return f"; the runs differ in {_joined(names)}, too, which separates their losses: analyze each value separately"


def _far_targets(runs: Runs, swept: Mapping[str, Sequence[float]], targets: pd.DataFrame) -> list[str]:
    """Return warnings of targets that are far from the swept scales."""
    notes = []
    scales = [{axis: float(row[axis]) for axis in swept} for _, row in targets.iterrows()]
    octaves = np.array(
        [
            [np.log2([axes[axis] / values[-1], values[0] / axes[axis]]) for axis, values in swept.items()]
            for axes in scales
        ]
    )
    beyond, below = octaves.max(axis=1).T
    below[below > OTHER_UNIT] = 0.0  # reported as another unit
    for distances, where in ((beyond, "beyond the largest"), (below, "below the smallest")):
        if count := int((distances > FAR_OCTAVES).sum()):
            more = f" and {count - 1} more" if count > 1 else ""
            notes.append(
                f"target {runs.format_scale(scales[int(np.argmax(distances))])}{more} lies {distances.max():.1f} "
                f"octaves {where} scale: extrapolation this far is unreliable"
            )
    return notes


def _split_scales(swept: Mapping[str, Sequence[float]]) -> list[str]:
    """Return warnings of nearly equal sizes, such as rounded tokens."""
    notes = []
    for axis, values in swept.items():
        close_pairs = [(low, high) for low, high in itertools.pairwise(values) if high / low < SAME_SIZE]
        if close_pairs:
            low, high = (plain_exponent(f"{value:.12g}") for value in close_pairs[0])
            notes.append(
                f"{axis} has values within {SAME_SIZE - 1:.0%} of each other, such as {low} and {high}, and each "
                f"counts as a scale of its own with few runs: round the column {axis} if they are meant to be the same"
            )
    return notes


def _mixed_settings(table: pd.DataFrame, columns: Columns) -> list[str]:
    """Return warnings of columns in which runs should not differ."""
    untuned = untuned_columns(table, columns)
    batches = [column for column in untuned if quantity_of(column.name) == "batch"]
    separating = [column for column in untuned if column.separates and column not in batches]
    settings = [column for column in untuned if not column.separates and column not in batches]
    notes = [_mixed_batch(column, columns) for column in batches]
    for differing, effect in (
        (separating, "separates their losses"),
        (settings, "may move the best value"),
    ):
        if not differing:
            continue
        several = len(differing) > 1
        names, values = _joined([column.name for column in differing]), "; ".join(map(UntunedColumn.line, differing))
        role = "are neither scales nor tuned" if several else "is neither a scale nor tuned"
        effect = effect.replace("separates", "separate") if several else effect
        scale = f", or add {'them' if several else names} to --scale"
        notes.append(
            f"runs differ in {names} (values {values}), which {role} and {effect}: analyze each "
            f"{'combination' if several else 'value'} separately (filter the table)"
            f"{scale if all(column.is_numeric for column in differing) else ''}"
        )
    return notes if any(column.separates for column in untuned) else [*notes, *_pooled_levels(table, columns)]


def _mixed_batch(column: UntunedColumn, columns: Columns) -> str:
    """Return the warning of a batch size without a role."""
    effect = "separates their losses and may move" if column.separates else "may move"
    tokens = next((axis for axis in columns.scales if quantity_of(axis) == "tokens"), None)
    sign = f"; the exponent along {tokens} changes sign with the scaling of the batch size" if tokens else ""
    return (
        f"runs differ in {column.name} (values {column.line()}), which is neither a scale nor tuned and {effect} the "
        f"best {_joined(columns.tuned)}{sign}: add it to --scale or --tune, or analyze each value separately"
    )


def _pooled_levels(table: pd.DataFrame, columns: Columns) -> list[str]:
    """Return a warning of experiments that no column tells apart."""
    level = level_difference(Runs.of(table, columns))
    if level is not None:
        differ = f"differ by about {level:.2g} nats at every point"
    elif order_separates(table, columns):
        differ = "differ by the order of their rows"
    else:
        return []
    return [
        f"repeats {differ}, as runs of several experiments do, and no column tells them apart: analyze each experiment "
        f"separately, or number them in a column {SEED}, which gives each its own level"
    ]


def _joined(names: Sequence[str]) -> str:
    """Return names as text; of many, the first ones."""
    more = [f"{len(names) - COLUMNS_NAMED} more"] if len(names) > COLUMNS_NAMED else []
    *others, last = [*names[:COLUMNS_NAMED], *more]
    return f"{', '.join(others)} and {last}" if others else last


def _confounded(runs: Runs, swept: Mapping[str, Sequence[float]]) -> list[str]:
    """Return warnings of axes that grow together."""
    notes = []
    logs = {name: np.log2([axes[name] for axes in runs.scales]) for name, values in swept.items() if len(values) > 1}
    for first, second in itertools.combinations(logs, 2):
        if abs(np.corrcoef(logs[first], logs[second])[0, 1]) > CONFOUNDED:
            notes.append(
                f"{first} and {second} grow together in every scale: their exponents cannot be separated, only their "
                "sum along that line is measured"
            )
    return notes


def _units(table: pd.DataFrame, columns: Columns) -> list[str]:
    """Return warnings of batch sizes in two units in one table.

    The sizes are then small or large, with none between.
    """
    notes = []
    for name in (*columns.scales, *columns.tuned):
        if quantity_of(name) != "batch":
            continue
        values = np.unique(table[name].to_numpy(dtype=float))
        below, above = values[:-1], values[1:]
        if ((below < MOST_SEQUENCES) & (above >= FEWEST_TOKENS) & (above / below >= GAP)).any():
            ends = below[below < MOST_SEQUENCES][-1], above[above >= FEWEST_TOKENS][0]
            notes.append(
                f"{name} runs from {short(values[0])} to {short(values[-1])} with nothing between {short(ends[0])} and "
                f"{short(ends[1])}: "
                "in sequences in some rows and in tokens in others?"
            )
    return notes


def _units_of_targets(targets: pd.DataFrame, swept: Mapping[str, Sequence[float]]) -> list[str]:
    """Return warnings of targets in another unit than the runs.

    They lie far above or below all swept values of an axis.
    """
    notes = []
    for axis, values in swept.items():
        low, high = float(targets[axis].min()), float(targets[axis].max())
        beyond = max(np.log2(high / values[-1]), np.log2(values[0] / low))
        if len(values) > 1 and beyond > OTHER_UNIT:
            notes.append(
                f"{axis} of the targets runs from {format_size(low)} to {format_size(high)}, of the runs from "
                f"{format_size(values[0])} to {format_size(values[-1])}: are both in the same unit?"
            )
    return notes
