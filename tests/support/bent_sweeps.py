"""Simulated sweeps of one axis whose optimum bends, or whose bowls and grids are awkward.

The optimum of the learning rate is log2 opt = -7 + b x + c x^2, with x in octaves of the width beyond the smallest. The
log loss rises above it by a bowl of 0.01 per octave squared, and each run has a noise of 0.2%.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from hptransfer.analysis.tables.arrays import Array
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from tests.support.objectives import Sweep

HEIGHT, NOISE, SKEW = 0.01, 0.002, 0.4
SMALLEST = 64.0
# Log loss beyond which a run counts as diverged.
DIVERGED = 3.0

Bowl = Callable[[Array, int], Array]


def unequal_sides(skew: float) -> Bowl:
    """Return a bowl that rises faster on its high side, on its low side if the skew is negative."""
    return lambda u, scale: 2 * HEIGHT * (np.exp(skew * u) - 1 - skew * u) / skew**2


# Bowls by kind: log loss above the optimum at some octaves from it, by index of the scale.
BOWLS: dict[str, Bowl] = {
    "parabola": lambda u, scale: HEIGHT * u**2,
    "unequal sides": unequal_sides(SKEW),
    "steep low side": unequal_sides(-SKEW),
    "steep high side": unequal_sides(0.9),
    "skew grows along the axis": lambda u, scale: unequal_sides(0.05 + 0.15 * scale)(u, scale),
    "plateau at the optimum": lambda u, scale: HEIGHT * np.maximum(0, np.abs(u) - 0.5) ** 2,
    "quartic": lambda u, scale: HEIGHT * (0.5 * u**2 + 0.1 * u**4),
    "power of 1.5": lambda u, scale: 2 * HEIGHT * np.abs(u) ** 1.5,
}
# Grids and noises by kind, with unequal sides.
GRIDS = ("one-sided grids", "a different grid at every scale", "two decimals", "unequal noise")
# Two tuned hyperparameters, of which the best learning rate depends on the batch size; corners of the grid are missing.
CORNERS = "missing corners"
KINDS = (*BOWLS, *GRIDS, CORNERS)


def simulate_bowls(
    kind: str, seed: int, *, scales: int = 5, out: float = 1.0, bend: float = 0.0, broken: float = 0.0
) -> Sweep:
    """Simulate one sweep.

    Args:
        kind: one of KINDS.
        out: octaves of the target beyond the largest scale.
        bend: c, octaves per octave squared.
        broken: change of the exponent b beyond the largest scale, octaves per octave.
    """
    random = np.random.default_rng([11, KINDS.index(kind), seed, scales, round(10 * out), round(1000 * abs(bend))])
    slope = random.uniform(-0.8, 0.3)
    optima = [-7 + slope * x + bend * x**2 for x in (*range(scales), scales - 1 + out)]
    rows = []
    for scale, best in enumerate(optima[:-1]):
        level = 2 + 2 * 2 ** (-0.3 * scale)
        points, excess = _corner_points(best, random) if kind == CORNERS else _points(kind, best, scale, random)
        noise = NOISE * (0.5 + 0.7 * scale if kind == "unequal noise" else 1.0)
        log_loss = np.log(level) + excess + noise * random.standard_normal(len(excess))
        losses = np.where(excess > DIVERGED, math.inf, np.exp(log_loss))
        if kind == "two decimals":
            losses = np.round(losses, 2)
        rows += [
            {"width": SMALLEST * 2**scale, **point, "loss": loss} for point, loss in zip(points, losses, strict=True)
        ]
    tuned = ("lr", "batch") if kind == CORNERS else ("lr",)
    columns = Columns(scales=("width",), tuned=tuned)
    target = {"width": SMALLEST * 2 ** (scales - 1 + out)}
    return Sweep(check_table(pd.DataFrame(rows), columns, "simulated"), columns, target, optima[-1] + broken * out)


def _points(kind: str, best: float, scale: int, random: np.random.Generator) -> tuple[list[dict[str, float]], Array]:
    """Return the rates of a scale, with their log loss above the optimum."""
    middle, spacing, count = np.round(best + random.uniform(-1, 1)), 1.0, 7
    grid = middle + np.arange(count) - count // 2
    if kind == "one-sided grids":
        grid = np.floor(best) + np.arange(count) - 1
    elif kind == "a different grid at every scale":
        spacing, count = random.choice([0.5, 0.75, 1.0, 1.5]), int(random.integers(4, 9))
        grid = best + random.uniform(-1, 1) + spacing * (np.arange(count) - count // 2)
    bowl = BOWLS.get(kind, BOWLS["unequal sides"])
    return [{"lr": 2.0**x} for x in grid], bowl(grid - best, scale)


def _corner_points(best: float, random: np.random.Generator) -> tuple[list[dict[str, float]], Array]:
    """Return rates and batch sizes about 2^6 without the corners of their grid."""
    rate, batch = np.meshgrid(np.round(best + random.uniform(-1, 1)) + np.arange(5) - 2, 4.0 + np.arange(5))
    kept = (np.abs(rate - rate.mean()) + np.abs(batch - batch.mean())) <= 3
    u, v = (rate - best)[kept], (batch - 6)[kept]
    excess = BOWLS["unequal sides"](u - 0.4 * v, 0) + 0.5 * HEIGHT * v**2
    return [{"lr": 2.0**x, "batch": 2.0**y} for x, y in zip(rate[kept], batch[kept], strict=True)], excess
