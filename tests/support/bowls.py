"""Sweeps of a bowl in the log of one or two tuned values over a few sizes, for tests of the analysis.

The log loss above a scale's optimum is a parabola or a linear-exponential bowl (response_shape.py), computed here anew.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hptransfer.analysis import Analysis, analyze

WIDTHS = (64, 128, 256, 512)
TARGET = {"width": 1024}
MIDDLE = -6.0


def power(exponent: float = -0.3) -> Callable[[float], float]:
    """Return log2 of the best rate of a width by a power law."""
    return lambda width: MIDDLE + exponent * math.log2(width / WIDTHS[0])


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """A problem with a known best rate.

    Attributes:
        optimum: log2 of the best rate of a width.
        curvature, skew: of the log loss above the optimum, per octave squared.
        diverges: log2 of the rate, over a width's edge, from which runs diverge; None: none does.
        level: loss at the optimum of a width.
    """

    optimum: Callable[[float], float] = field(default_factory=power)
    curvature: float = 0.01
    skew: float = 0.0
    diverges: Callable[[float], float] | None = None
    level: Callable[[float], float] = lambda width: 2.0 + 2.0 * (width / 64) ** -0.3

    def excess(self, away: float) -> float:
        """Return the log loss above the optimum, octaves away from it."""
        if not self.skew:
            return self.curvature * away**2
        return 2 * self.curvature * (math.exp(self.skew * away) - 1 - self.skew * away) / self.skew**2

    def runs(
        self,
        *,
        widths: Sequence[float] = WIDTHS,
        rates: Sequence[float] = tuple(range(-11, 0)),
        noise: float = 0.001,
        seed: int = 0,
        of_seeds: int = 0,
        offset: float = 0.0,
    ) -> pd.DataFrame:
        """Return a table of runs at log2 rates.

        Args:
            noise: standard deviation of a log loss.
            of_seeds: number of repeats in a column `seed`; 0: one run at each point, without the column.
            offset: octaves between the rates of successive widths.
        """
        random = np.random.default_rng(seed)
        rows = []
        for index, width in enumerate(widths):
            for rate, repeat in itertools.product(rates, range(max(1, of_seeds))):
                x = rate + index * offset
                away = x - self.optimum(width)
                loss = self.level(width) * math.exp(min(self.excess(away), 20.0) + noise * random.standard_normal())
                diverged = self.diverges is not None and x > self.diverges(width)
                row = {"width": width, "lr": 2.0**x, "loss": math.inf if diverged else loss}
                rows.append(row | ({"seed": repeat} if of_seeds else {}))
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Answer:
    """The answer for the first target, log2."""

    center: float
    low: float
    high: float
    analysis: Analysis

    @property
    def width(self) -> float:
        """Octaves between the ends of the interval."""
        return self.high - self.low

    @property
    def value(self) -> float:
        """Log2 of the recommended value."""
        return math.log2(self.analysis.predictions.iloc[0][self.analysis.fit.tuned[0]])

    def holds(self, truth: float) -> bool:
        """Return True if the interval holds log2 of a value."""
        return self.low <= truth <= self.high

    def overlaps(self, other: Answer) -> bool:
        """Return True if the intervals have a value in common."""
        return self.low <= other.high and other.low <= self.high


def answer(
    table: pd.DataFrame,
    *,
    scale: Sequence[str] = ("width",),
    tune: Sequence[str] = ("lr",),
    target: Mapping[str, float] = TARGET,
    name: str | None = None,
    **options: object,
) -> Answer:
    """Analyze a table.

    Args:
        name: tuned column of the answer; None: the first one.
    """
    analysis = analyze(table, scale=scale, tune=tune, targets=[target], **options)  # type: ignore[arg-type]
    row = analysis.predictions.iloc[0]
    name = name or tune[0]
    return Answer(*(math.log2(row[f"{name}{end}"]) for end in ("_center", "_low", "_high")), analysis)
