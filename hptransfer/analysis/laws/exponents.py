"""Exponents of the optimum along each axis, with verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.laws.model_averaging import ModelAverage
from hptransfer.analysis.tables.quantities import is_size_or_budget, quantity_of

INTERVAL = (5, 95)
NORMAL_95 = 1.645
# An exponent with its whole interval within this distance of zero, in octaves per octave, counts as transfer.
TRANSFER_TOLERANCE = 0.25

TRANSFERS = "transfers"
DRIFTS = "does not transfer"
UNDECIDED = "undecided"
# Sentences about an optimum: an interval without zero, one within the tolerance, and any other.
MOVES, STAYS, MAY_MOVE = "moves", "stays", "may move"


@dataclass(frozen=True)
class Exponent:
    """Exponent along one axis, octaves per octave, with its 90% interval."""

    value: float
    low: float
    high: float

    @property
    def se(self) -> float:
        """Standard error by the width of the interval."""
        return (self.high - self.low) / (2 * NORMAL_95)

    @property
    def verdict(self) -> str:
        """Verdict by the interval: TRANSFERS, DRIFTS or UNDECIDED."""
        if abs(self.low) <= TRANSFER_TOLERANCE and abs(self.high) <= TRANSFER_TOLERANCE:
            return TRANSFERS
        if self.low > TRANSFER_TOLERANCE or self.high < -TRANSFER_TOLERANCE:
            return DRIFTS
        return UNDECIDED

    @property
    def moves(self) -> bool:
        """True if the interval of the exponent does not hold zero."""
        return self.low > 0 or self.high < 0

    @property
    def movement(self) -> str:
        """Movement along the axis in words: MOVES, STAYS or MAY_MOVE."""
        if self.moves:
            return MOVES
        return STAYS if self.verdict == TRANSFERS else MAY_MOVE

    def sentence(self, tuned: str, axis: str) -> str:
        """Return the exponent with its interval, its movement and its verdict."""
        judged = has_verdict(tuned, axis) and self.verdict != UNDECIDED
        words = [self.verdict] if judged else []
        if not judged or self.moves:
            words.insert(0, self.movement)
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}] {', '.join(words)}"


def has_verdict(tuned: str, axis: str) -> bool:
    """Return True if sentences judge a hyperparameter's transfer along an axis.

    A learning rate is expected to transfer over sizes and budgets. Other hyperparameters, such as the batch size, are
    not. Their exponent along a size or a budget is shown without a verdict.
    """
    return quantity_of(tuned) == "rate" or not is_size_or_budget(axis)


def exponents(power: ModelAverage, swept: SweptAxes, tuned: Sequence[str]) -> dict[str, dict[str, Exponent]]:
    """Return exponents by tuned hyperparameter and axis.

    An exponent is the slope between the ends of its axis, with the other axes at their smallest values.
    """
    ends = [{axis: values[0] for axis, values in swept.values.items()}]
    ends += [{**ends[0], axis: swept.values[axis][-1]} for axis in swept.moving]
    drawn, mean = power.draws(ends), power.mean(ends)
    by_name: dict[str, dict[str, Exponent]] = {name: {} for name in tuned}
    for end, axis in enumerate(swept.moving, start=1):
        octaves = np.log2(swept.values[axis][-1] / swept.values[axis][0])
        slopes = (drawn[:, end] - drawn[:, 0]) / octaves
        for k, name in enumerate(tuned):
            low, high = np.percentile(slopes[:, k], INTERVAL)
            value = float((mean[end, k] - mean[0, k]) / octaves)
            by_name[name][axis] = Exponent(value, float(low), float(high))
    return by_name
