"""Warnings of problems in the table that the fit cannot detect.

They make a prediction less certain than its interval.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.tables.quantities import SCHEDULE_NAMES, quantity_of
from hptransfer.analysis.tables.scale_names import format_size

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


def table_warnings(table: pd.DataFrame, fit: Fit, predictions: pd.DataFrame) -> list[str]:
    """Return all warnings, one line each."""
    notes = []
    targets = [{axis: float(row[axis]) for axis in fit.columns.scales} for _, row in predictions.iterrows()]
    for octaves_outside, where in (
        (fit.extrapolation_octaves, "beyond the largest"),
        (fit.octaves_below, "below the smallest"),
    ):
        octaves = np.array([octaves_outside(target) for target in targets])
        if octaves_outside == fit.octaves_below:
            octaves[octaves > OTHER_UNIT] = 0.0  # reported as another unit
        count = int((octaves > FAR_OCTAVES).sum())
        if count:
            farthest = fit.runs.format_scale(targets[int(np.argmax(octaves))]) + (
                f" and {count - 1} more" if count > 1 else ""
            )
            notes.append(
                f"target {farthest} lies {octaves.max():.1f} octaves {where} scale: "
                "extrapolation this far is unreliable"
            )
    trained = table[np.isfinite(table[fit.columns.loss])]
    steps = (
        trained.loc[trained["steps"] > 0, "steps"].min() if "steps" in table else FEW_STEPS
    )  # 0: imported without steps
    if steps < FEW_STEPS:
        few = "1 step" if steps == 1 else f"{int(steps)} steps"
        notes.append(f"some runs have only {few}: their optimum may differ from that of long training")
    units = [*_units(table, fit), *_units_of_targets(predictions, fit)]
    return [*notes, *_split_scales(fit), *_mixed_schedules(table, fit), *_confounded(table, fit), *units]


def _split_scales(fit: Fit) -> list[str]:
    """Return warnings of nearly equal sizes, such as rounded tokens."""
    notes = []
    for axis, values in fit.swept.values.items():
        close_pairs = [(low, high) for low, high in itertools.pairwise(values) if high / low < SAME_SIZE]
        if close_pairs:
            low, high = (f"{value:.12g}" for value in close_pairs[0])
            notes.append(
                f"{axis} has values within {SAME_SIZE - 1:.0%} of each other, such as {low} and {high}, and each "
                f"counts as a scale of its own with few runs: round the column {axis} if they are meant to be the same"
            )
    return notes


def _mixed_schedules(table: pd.DataFrame, fit: Fit) -> list[str]:
    """Return a warning of runs with different schedules."""
    used = {*fit.columns.scales, *fit.tuned, fit.columns.loss}
    mixed = [
        str(name)
        for name in table
        if str(name).lower() in SCHEDULE_NAMES and name not in used and table[name].nunique() > 1
    ]
    if not mixed:
        return []
    return [f"runs differ in {' and '.join(mixed)}, on which the best value depends: fit each combination separately"]


def _confounded(table: pd.DataFrame, fit: Fit) -> list[str]:
    """Return warnings of confounded axes.

    Axes may grow together, or the batch size may vary without being an axis or tuned.
    """
    notes = []
    logs = {name: np.log2([axes[name] for axes in fit.runs.scales]) for name in fit.swept.moving}
    for first, second in itertools.combinations(logs, 2):
        if abs(np.corrcoef(logs[first], logs[second])[0, 1]) > CONFOUNDED:
            notes.append(
                f"{first} and {second} grow together in every scale: their exponents cannot be separated, only their "
                "sum along that line is measured"
            )
    used = {*fit.columns.scales, *fit.tuned}
    for name in table.columns:
        if quantity_of(str(name)) == "batch" and name not in used and table[name].nunique() > 1:
            notes.append(
                f"runs differ in {name}, which is neither a scale nor tuned: the exponent along tokens changes sign "
                "with the scaling of the batch size; add it to --scale or --tune"
            )
    return notes


def _units(table: pd.DataFrame, fit: Fit) -> list[str]:
    """Return warnings of batch sizes in two units in one table.

    The sizes are then small or large, with none between.
    """
    notes = []
    for name in (*fit.columns.scales, *fit.tuned):
        if quantity_of(name) != "batch":
            continue
        values = np.unique(table[name].to_numpy(dtype=float))
        below, above = values[:-1], values[1:]
        if ((below < MOST_SEQUENCES) & (above >= FEWEST_TOKENS) & (above / below >= GAP)).any():
            ends = below[below < MOST_SEQUENCES][-1], above[above >= FEWEST_TOKENS][0]
            notes.append(
                f"{name} runs from {values[0]:g} to {values[-1]:g} with nothing between {ends[0]:g} and {ends[1]:g}: "
                "in sequences in some rows and in tokens in others?"
            )
    return notes


def _units_of_targets(predictions: pd.DataFrame, fit: Fit) -> list[str]:
    """Return warnings of targets in another unit than the runs.

    They lie far above or below all swept values of an axis.
    """
    notes = []
    for axis, values in fit.swept.values.items():
        low, high = float(predictions[axis].min()), float(predictions[axis].max())
        beyond = max(np.log2(high / values[-1]), np.log2(values[0] / low))
        if len(values) > 1 and beyond > OTHER_UNIT:
            notes.append(
                f"{axis} of the targets runs from {format_size(low)} to {format_size(high)}, of the runs from "
                f"{format_size(values[0])} to {format_size(values[-1])}: are both in the same unit?"
            )
    return notes
