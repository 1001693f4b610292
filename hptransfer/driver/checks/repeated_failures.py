"""Detection of trials that fail alike, one after another.

A sweep of hundreds of trials would otherwise train all of them to the same error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hptransfer.core.records import CANCELLED, FAILED, Outcome, Trial

# Ids, and numbers such as a step, a size or a process: equal failures differ in them.
ID_OR_NUMBER = re.compile(r"\b[0-9a-f]{12}\b|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class RepeatedFailure:
    """Equal failures in a row, at which a sweep stops.

    Attributes:
        trial: the last one that failed, without its configuration.
        outcome: its outcome.
        count: number of the failures.
    """

    trial: Trial
    outcome: Outcome
    count: int


class RepeatedFailures:
    """Count of equal failures in a row.

    Args:
        limit: number at which the sweep stops; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._key: tuple[str | None, str] | None = None
        self._count = 0
        self.reached: RepeatedFailure | None = None

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Count the outcome of a trial that has just ended.

        A trial that trained ends the row. A cancelled one is not a failure.
        """
        if outcome.cause == CANCELLED:
            return
        key = failure_key(outcome) if outcome.state == FAILED else None
        self._count = self._count + 1 if key == self._key else 1
        self._key = key
        if key is not None and self._limit is not None and self._count >= self._limit and self.reached is None:
            self.reached = RepeatedFailure(trial, outcome, self._count)


def failure_key(outcome: Outcome) -> tuple[str | None, str]:
    """Return cause and error of a failure, without ids and numbers."""
    return outcome.cause, ID_OR_NUMBER.sub("#", outcome.error or "")
