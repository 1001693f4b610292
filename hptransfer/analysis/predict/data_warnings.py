"""What makes a prediction less sure than its interval says: things about the table that no fit can see."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.tables.axis_roles import SCHEDULE, kind
from hptransfer.analysis.tables.scale_names import format_size

# Beyond so many octaves from the largest scale a law is a leap.
FAR_OCTAVES = 4.0
# Fewer optimizer steps than this say more of the warm-up than of training.
FEW_STEPS = 50
# Two axes whose logs correlate so strongly cannot be told apart.
CONFOUNDED = 0.95
# A target so many octaves outside what was swept of an axis may be in another unit: a sequence is 2^9 tokens or more.
OTHER_UNIT = 8.0
# Batch sizes are sequences up to here and tokens from there on.
SEQUENCES, TOKENS = 2**14, 2**15
# Sizes of one axis nearer than this are one size, measured or rounded: a grid has larger steps.
SAME_SIZE = 1.02
# No sweep leaps by such a factor from one batch size to the next.
GAP = 16


def table_warnings(table: pd.DataFrame, fit: Fit, predictions: pd.DataFrame) -> list[str]:
    """One line each."""
    notes = []
    targets = [{axis: float(row[axis]) for axis in fit.columns.scales} for _, row in predictions.iterrows()]
    for far, where in ((fit.extrapolation_octaves, "beyond the largest"), (fit.octaves_below, "below the smallest")):
        octaves = np.array([far(target) for target in targets])
        if far == fit.octaves_below:
            octaves[octaves > OTHER_UNIT] = 0.0  # which is told of as another unit
        leaps = int((octaves > FAR_OCTAVES).sum())
        if leaps:
            which = fit.runs.format_scale(targets[int(np.argmax(octaves))]) + (
                f" and {leaps - 1} more" if leaps > 1 else ""
            )
            notes.append(
                f"target {which} lies {octaves.max():.1f} octaves {where} scale: extrapolation this far is unreliable"
            )
    trained = table[np.isfinite(table[fit.columns.loss])]
    steps = trained.loc[trained["steps"] > 0, "steps"].min() if "steps" in table else FEW_STEPS  # 0: imported without
    if steps < FEW_STEPS:
        notes.append(f"some runs have only {int(steps)} steps: their optimum says little of long training")
    units = [*_units(table, fit), *_units_of_targets(predictions, fit)]
    return [*notes, *_split_scales(fit), *_mixed_schedules(table, fit), *_confounded(table, fit), *units]


def _split_scales(fit: Fit) -> list[str]:
    """Axes with sizes that are all but the same, such as tokens that were rounded to whole steps."""
    notes = []
    for axis, values in fit.seen.values.items():
        near = [(low, high) for low, high in itertools.pairwise(values) if high / low < SAME_SIZE]
        if near:
            low, high = (f"{value:.12g}" for value in near[0])
            notes.append(
                f"{axis} has values nearer than {SAME_SIZE - 1:.0%} to each other, such as {low} and {high}, and each "
                f"counts as a scale of its own with few runs: round the column {axis} if they are meant to be the same"
            )
    return notes


def _mixed_schedules(table: pd.DataFrame, fit: Fit) -> list[str]:
    used = {*fit.columns.scales, *fit.tuned, fit.columns.loss}
    mixed = [
        str(name) for name in table if str(name).lower() in SCHEDULE and name not in used and table[name].nunique() > 1
    ]
    if not mixed:
        return []
    return [f"runs differ in {' and '.join(mixed)}, on which the best value depends: fit one setting at a time"]


def _confounded(table: pd.DataFrame, fit: Fit) -> list[str]:
    """Axes that move together, and a batch size that moves with the tokens without being an axis or tuned."""
    notes = []
    logs = {name: np.log2([axes[name] for axes in fit.runs.scales]) for name in fit.seen.moving}
    names = list(logs)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if abs(np.corrcoef(logs[first], logs[second])[0, 1]) > CONFOUNDED:
                notes.append(
                    f"{first} and {second} grow together in every scale: their exponents cannot be told apart, only "
                    "their sum along that line is measured"
                )
    used = {*fit.columns.scales, *fit.tuned}
    for name in table.columns:
        if kind(str(name)) == "batch" and name not in used and table[name].nunique() > 1:
            notes.append(
                f"runs differ in {name}, which is neither a scale nor tuned: the exponent along tokens changes sign "
                "with how the batch moved; add it to --scale or --tune"
            )
    return notes


def _units(table: pd.DataFrame, fit: Fit) -> list[str]:
    """Batch sizes in sequences and in tokens in one table: small ones, large ones, and none between."""
    notes = []
    for name in (*fit.columns.scales, *fit.tuned):
        if kind(name) != "batch":
            continue
        values = np.unique(table[name].to_numpy(dtype=float))
        below, above = values[:-1], values[1:]
        if ((below < SEQUENCES) & (above >= TOKENS) & (above / below >= GAP)).any():
            ends = below[below < SEQUENCES][-1], above[above >= TOKENS][0]
            notes.append(
                f"{name} runs from {values[0]:g} to {values[-1]:g} with nothing between {ends[0]:g} and {ends[1]:g}: "
                "in sequences in some rows and in tokens in others?"
            )
    return notes


def _units_of_targets(predictions: pd.DataFrame, fit: Fit) -> list[str]:
    """Targets far above or below all that was swept of an axis: in thousands here and in ones there?"""
    notes = []
    for axis, values in fit.seen.values.items():
        low, high = float(predictions[axis].min()), float(predictions[axis].max())
        beyond = max(np.log2(high / values[-1]), np.log2(values[0] / low))
        if len(values) > 1 and beyond > OTHER_UNIT:
            notes.append(
                f"{axis} of the targets runs from {format_size(low)} to {format_size(high)}, of the runs from "
                f"{format_size(values[0])} to {format_size(values[-1])}: are both in the same unit?"
            )
    return notes
