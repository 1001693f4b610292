"""What a sweep's budget still allows."""

from __future__ import annotations

from collections.abc import Sequence

from hptransfer.config.sweep import BudgetConfig
from hptransfer.core.records import Job, Scale, Trial
from hptransfer.driver.trial_index import TrialIndex


class BudgetUse:
    """What trials have cost so far and will, against the limits of a budget.

    What is in flight counts as long as it is expected to take: else everything could be submitted at once.
    """

    def __init__(self, budget: BudgetConfig, book: TrialIndex) -> None:
        self._budget, self._book = budget, book
        self._committed_s = 0.0

    @property
    def bounded(self) -> bool:
        return any(limit is not None for limit in vars(self._budget).values())

    @property
    def of_time(self) -> bool:
        """Whether it is devices' time that is limited."""
        return self._budget.device_hours is not None

    def in_flight(self, seconds: float) -> None:
        """What of devices' time the jobs in flight are expected to take yet."""
        self._committed_s = seconds

    def commit(self, job: Job) -> None:
        """A job more is in flight."""
        self._committed_s += (job.seconds or 0.0) * self._book.at(job.scale).devices

    def allows(self, *flops: float, begun: Sequence[Trial] = ()) -> bool:
        """Whether trials of these costs may be started.

        Args:
            begun: all of them but the last, of one scale, whose time is not spent yet.
        """
        book, budget = self._book, self._budget
        begun_s = (book.seconds(begun) or 0.0) * book.at(begun[0].scale).devices if begun else 0.0
        spent_s = book.device_s + self._committed_s + begun_s
        return (
            (budget.trials is None or book.started + len(flops) <= budget.trials)
            and (budget.flops is None or book.started_flops + sum(flops) <= budget.flops)
            and (budget.device_hours is None or spent_s < 3600 * budget.device_hours)
        )

    def unmeasured(self, scale: Scale) -> bool:
        """Whether a limit of time has to wait for a first job to tell what further ones of the scale take."""
        at = self._book.at(scale)
        return self.of_time and at.open > 0 and not at.flops
