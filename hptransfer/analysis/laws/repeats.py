"""Noise between repeats, differences along a hyperparameter, and levels of several experiments."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hptransfer.analysis.tables.arrays import Runs

# Fewer values than this cannot bracket an optimum.
FEWEST_VALUES = 3
# Points with repeats that measure noise; the median of the square of a standard normal variable.
FEWEST_REPEATED, MEDIAN_OF_SQUARE = 2, 0.455
# Points with repeats that tell levels from noise, and the largest deviation of a difference of levels as its share.
# Differences between neighbouring repeats deviate by three quarters of their mean if they come from noise.
FEWEST_LEVELLED, LEVEL_DEVIATION = 6, 0.2
# Differences below this share of the loss are no other experiment's.
LEAST_LEVEL = 0.002


def level_difference(runs: Runs) -> float | None:
    """Return the difference between repeats that is the same at all points.

    Runs of several experiments have one, and repeats of one experiment have not. It is the largest of those between
    neighbouring repeats, and None without one. It is in the unit of the loss.
    """
    finite = np.isfinite(runs.loss)
    points = pd.DataFrame(np.column_stack([runs.intercept, np.round(runs.x, 9)])[finite])
    frame = pd.DataFrame({"point": points.groupby(list(points)).ngroup(), "loss": runs.loss[finite]})
    frame["scale"] = runs.scale[finite]
    frame["repeats"] = frame.groupby("point")["loss"].transform("size")
    repeats = int(frame["repeats"].mode().max()) if len(frame) else 0
    if repeats < 2:
        return None
    frame = frame[frame["repeats"] == repeats].sort_values(["point", "loss"])
    losses = frame["loss"].to_numpy().reshape(-1, repeats)
    gaps, scale = pd.DataFrame(np.diff(losses, axis=1)), frame["scale"].to_numpy()[::repeats]
    means = gaps.groupby(scale).transform("mean")
    free = len(gaps) - len(np.unique(scale))
    levels = means.mean(axis=0)
    deviations = np.sqrt(((gaps - means) ** 2).sum(axis=0) / max(free, 1))
    differ = (deviations < LEVEL_DEVIATION * levels) & (levels > LEAST_LEVEL * abs(losses.mean()))
    return float(levels[differ].max()) if free >= FEWEST_LEVELLED and differ.any() else None


def repeat_noise(runs: Runs) -> float | None:
    """Return the standard deviation of the response between repeats.

    It is the median over points, so that one run that went wrong does not count, and None without repeats.
    """
    finite = np.isfinite(runs.loss)
    points = np.column_stack([runs.scale, np.round(runs.x, 9)])[finite]
    point = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    y, counts = runs.y[finite], np.bincount(point)
    means = np.bincount(point, y) / counts
    squares = np.bincount(point, (y - means[point]) ** 2)
    repeated = counts > 1
    if repeated.sum() < FEWEST_REPEATED:
        return None
    return float(np.sqrt(np.median(squares[repeated] / (counts[repeated] - 1)) / MEDIAN_OF_SQUARE))


def spread_along(runs: Runs, k: int) -> float | None:
    """Return the standard deviation of the response along one hyperparameter.

    It is of the medians of repeats along a line of at least FEWEST_VALUES values, with all else equal, and the median
    over all lines. Without a line it is None.
    """
    finite = np.isfinite(runs.loss)
    others = np.round(np.delete(runs.x, k, axis=1), 9)
    line = np.unique(np.column_stack([runs.scale, others])[finite], axis=0, return_inverse=True)[1].reshape(-1)
    frame = pd.DataFrame({"line": line, "value": np.round(runs.x[finite, k], 9), "y": runs.y[finite]})
    by_line = frame.groupby(["line", "value"])["y"].median().groupby("line").agg(["size", "std"])
    deviations = by_line.loc[by_line["size"] >= FEWEST_VALUES, "std"]
    return float(deviations.median()) if len(deviations) else None
