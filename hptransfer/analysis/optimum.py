"""The optimum of one scale: where a parabola through the points near the best has its vertex.

Estimator and standard error follow the recommendation that the documentation derives (quadratic in
x = log2 value, points near the minimum, Porian et al.'s edge rule, arXiv:2406.19146).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from hptransfer.analysis.records import SEED, Columns

Array = NDArray[np.floating[Any]]

BRACKETED = "bracketed"
EDGE_LOW = "edge, low"
EDGE_HIGH = "edge, high"
BOUNDED = "bounded by divergence"
TOO_FEW = "too few points"

# Points within so many nats of the best enter the parabola.
NEAR_NATS = 0.02
# So many seeds at every value tell the optimum's error themselves; fewer tell too little of it.
PAIRED_SEEDS = 4


@dataclass(frozen=True, eq=False)
class Cell:
    """All runs of one scale.

    Attributes:
        x: log2 of the tuned values, ascending, without repeats.
        y: mean loss at each; infinite if a repeat diverged.
        squares: at each, sum of squares of repeats about their mean; `freedom`, its degrees of freedom.
        by_seed: losses, (seeds, values), NaN where a seed did not run; no row if the table has no seeds.
    """

    axes: Mapping[str, float]
    x: Array
    y: Array
    squares: Array
    freedom: Array
    by_seed: Array
    flops: float
    runs: int
    diverged: int


@dataclass(frozen=True, eq=False)
class Optimum:
    """The optimum of one scale.

    Attributes:
        status: BRACKETED, or why it is not: an edge gives a bound, not an estimate.
        x: log2 of the optimum (of the best value tried, unless bracketed).
        se: standard error of x in octaves; NaN unless bracketed.
        curvature: nats per octave squared; NaN unless bracketed.
        loss: nats at the optimum.
        kept: positions in the cell's points that the parabola went through.
        residuals: of the kept points, in nats.
    """

    cell: Cell
    status: str
    x: float
    se: float
    curvature: float
    loss: float
    kept: NDArray[np.intp]
    residuals: Array

    @property
    def bracketed(self) -> bool:
        return self.status == BRACKETED


def cells(table: pd.DataFrame, columns: Columns) -> list[Cell]:
    """The table's scales, cheapest first (by FLOPs if the table has them, else by their product)."""
    found = []
    for _, rows in table.groupby(list(columns.scales), sort=True):
        axes = {axis: float(rows[axis].iloc[0]) for axis in columns.scales}
        by_value = rows.groupby(columns.tuned_one)[columns.loss]
        means, finite = by_value.mean(), np.isfinite(by_value.mean())
        flops = float(rows["flops"].mean()) if "flops" in rows else float(np.prod(list(axes.values())))
        found.append(
            Cell(
                axes=axes,
                x=np.log2(means.index.to_numpy(dtype=float)),
                y=means.to_numpy(dtype=float),
                squares=np.where(finite, by_value.var(ddof=0) * by_value.size(), 0.0),
                freedom=np.where(finite, by_value.size() - 1, 0).astype(float),
                by_seed=_by_seed(rows, columns),
                flops=flops,
                runs=len(rows),
                diverged=int(np.isinf(rows[columns.loss]).sum()),
            )
        )
    return sorted(found, key=lambda cell: cell.flops)


def _by_seed(rows: pd.DataFrame, columns: Columns) -> Array:
    if SEED not in rows:
        return np.empty((0, rows[columns.tuned_one].nunique()))
    table = rows.pivot_table(index=SEED, columns=columns.tuned_one, values=columns.loss, aggfunc="mean", dropna=False)
    return table.to_numpy(dtype=float)


def repeat_noise(cell: Cell) -> float:
    """Standard deviation of a run between seeds near the scale's best value, in nats; 0 without repeats.

    Far from the best, where runs come near to diverging, seeds differ by much more, and scales by how much.
    """
    finite = np.flatnonzero(np.isfinite(cell.y))
    if not len(finite):
        return 0.0
    near = finite[near_best(cell.x[finite], cell.y[finite], 0.0)]
    freedom = cell.freedom[near].sum()
    return float(np.sqrt(cell.squares[near].sum() / freedom)) if freedom else 0.0


def near_best(x: Array, y: Array, noise: float) -> NDArray[np.intp]:
    """Positions of the points that the parabola goes through: near the best, two on each side at least."""
    best = int(np.argmin(y))
    near = y < y[best] + max(NEAR_NATS, 3 * noise)
    near[max(0, best - 2) : best + 3] = True
    # Without gaps: a far point that is low by chance does not count.
    low, high = best, best
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(x) - 1 and near[high + 1]:
        high += 1
    return np.arange(low, high + 1)


def parabola(x: Array, y: Array) -> tuple[float, float, float, float]:
    """Least-squares parabola: vertex, curvature, value at the vertex, and the slope's design centre."""
    centre = float(x.mean())
    a, b, c = np.polyfit(x - centre, y, 2)
    return float(centre - b / (2 * a)), float(a), float(c - b * b / (4 * a)), centre


def vertex_error(x: Array, vertex: float, curvature: float, noise: float) -> float:
    """Standard error of a parabola's vertex, in octaves.

    `noise / (2a) * sqrt(1/S2 + (2 delta)^2/S4)` with S2 the sum of squares of x about its mean, S4
    the residual sum of squares of x^2 regressed on (1, x), delta the vertex minus the design's centre.
    """
    t = x - x.mean()
    s2 = float((t**2).sum())
    design = np.column_stack([np.ones_like(t), t])
    s4 = float(((t**2 - design @ np.linalg.lstsq(design, t**2, rcond=None)[0]) ** 2).sum())
    delta = vertex - float(x.mean())
    return float(noise / (2 * curvature) * np.sqrt(1 / s2 + (2 * delta) ** 2 / s4))


def seed_residuals(found: Optimum) -> Array | None:
    """What seeds add to the kept points' losses, (seeds, points), so scaled that a sum of them with standard normal
    weights is distributed as the noise of the mean; None if there are too few seeds.

    Seeds start and learn alike at neighbouring values, which moves the curve more than its vertex.
    """
    losses = found.cell.by_seed[:, found.kept]
    losses = losses[np.isfinite(losses).all(axis=1)]
    seeds = len(losses)
    if seeds < PAIRED_SEEDS:
        return None
    scaled: Array = (losses - losses.mean(axis=0)) / np.sqrt(seeds * (seeds - 1))
    return scaled


def paired_error(found: Optimum, residuals: Array) -> float:
    """Standard error of the vertex in octaves, by how much seeds add to each loss and how the vertex moves with it."""
    t = found.cell.x[found.kept] - found.x
    slope = np.linalg.pinv(np.vander(t, 3))[1]  # how the parabola's slope at its vertex moves with each loss
    return float(np.linalg.norm(residuals @ slope) / (2 * found.curvature))


def optimum(cell: Cell) -> Optimum:
    """The optimum of a scale; its standard error is for the caller to fill in, once noise is known."""
    finite = np.flatnonzero(np.isfinite(cell.y))
    x, y = cell.x[finite], cell.y[finite]
    if len(x) < 3:
        best = float(x[np.argmin(y)]) if len(x) else np.nan
        return _without(cell, TOO_FEW, best, float(y.min()) if len(x) else np.nan)
    best_at = int(np.argmin(y))
    if best_at == 0:
        return _without(cell, EDGE_LOW, float(x[0]), float(y[0]))
    if best_at == len(x) - 1:
        bounded = finite[-1] < len(cell.x) - 1
        return _without(cell, BOUNDED if bounded else EDGE_HIGH, float(x[-1]), float(y[-1]))
    repeats = cell.runs / len(cell.x)
    kept = near_best(x, y, repeat_noise(cell) / repeats**0.5)
    vertex, curvature, loss, _ = parabola(x[kept], y[kept])
    if curvature <= 0 or loss <= 0 or not x[1] <= vertex <= x[-2]:
        kept = np.arange(best_at - 1, best_at + 2)  # the points about the best alone: convex by choice
        vertex, curvature, loss, _ = parabola(x[kept], y[kept])
    if not x[1] - 1e-9 <= vertex <= x[-2] + 1e-9:
        return _without(cell, EDGE_LOW if vertex < x[1] else EDGE_HIGH, float(x[best_at]), float(y[best_at]))
    fitted = np.polyval(np.polyfit(x[kept] - vertex, y[kept], 2), x[kept] - vertex)
    loss = loss if loss > 0 else float(y[best_at])  # a parabola's, through few points of a steep curve
    return Optimum(cell, BRACKETED, vertex, np.nan, curvature, loss, finite[kept], y[kept] - fitted)


def _without(cell: Cell, status: str, x: float, loss: float) -> Optimum:
    nothing = np.array([], dtype=np.intp)
    return Optimum(cell, status, x, np.nan, np.nan, loss, nothing, np.array([]))


class Curve:
    """A smooth curve through all finite points of one scale (Akima; PCHIP below five points).

    Args:
        values: tuned values, above 0.
        losses: nats, finite.
    """

    def __init__(self, values: Sequence[float], losses: Sequence[float]) -> None:
        order = np.argsort(values)
        self.x: Array = np.log2(np.asarray(values, dtype=float)[order])
        self.y: Array = np.asarray(losses, dtype=float)[order]
        kind = Akima1DInterpolator if len(self.x) >= 5 else PchipInterpolator
        self._curve = kind(self.x, self.y)

    def at(self, x: float) -> float:
        """Loss at log2 of a value.

        Raises:
            ValueError: x lies outside the points.
        """
        if not self.x[0] - 1e-9 <= x <= self.x[-1] + 1e-9:
            raise ValueError(f"{x} lies outside the curve, {self.x[0]} to {self.x[-1]}")
        return float(self._curve(min(max(x, self.x[0]), self.x[-1])))

    def minimum(self) -> tuple[float, float]:
        """log2 of the best value on the curve, and its loss."""
        fine = np.linspace(self.x[0], self.x[-1], 2001)
        losses = self._curve(fine)
        best = int(np.argmin(losses))
        return float(fine[best]), float(losses[best])
