"""Use of a sweep's budget by its trials."""

from __future__ import annotations

from collections.abc import Sequence

from hptransfer.config.sweep import BudgetConfig
from hptransfer.core.records import Job, Scale, Trial
from hptransfer.driver.trial_index import TrialIndex


class BudgetUse:
    """Cost of trials, past and expected, against a budget.

    Jobs in flight count with their expected time: otherwise everything could be submitted at once.
    """

    def __init__(self, budget: BudgetConfig, index: TrialIndex) -> None:
        self._budget, self._index = budget, index
        self._committed_s = 0.0

    @property
    def bounded(self) -> bool:
        """True if there is any limit."""
        return any(limit is not None for limit in vars(self._budget).values())

    @property
    def limits_time(self) -> bool:
        """True if the device time is limited."""
        return self._budget.device_hours is not None

    def expect(self, seconds: float) -> None:
        """Set the expected device seconds of all jobs in flight."""
        self._committed_s = seconds

    def commit(self, job: Job) -> None:
        """Count one more job in flight."""
        self._committed_s += (job.seconds or 0.0) * self._index.at(job.scale).devices

    def allows(self, *flops: float, begun: Sequence[Trial] = ()) -> bool:
        """Test if trials of these costs may start.

        Args:
            begun: those of the trials that are chosen for the same job already. Their time is not spent yet.
        """
        index, budget = self._index, self._budget
        begun_s = (index.seconds(begun) or 0.0) * index.at(begun[0].scale).devices if begun else 0.0
        spent_s = index.device_s + self._committed_s + begun_s
        return (
            (budget.trials is None or index.started + len(flops) <= budget.trials)
            and (budget.flops is None or index.started_flops + sum(flops) <= budget.flops)
            and (budget.device_hours is None or spent_s < 3600 * budget.device_hours)
        )

    def needs_measurement(self, scale: Scale) -> bool:
        """Test if a scale's first job has to be measured first.

        A limit of device time needs the duration of a trial.
        """
        state = self._index.at(scale)
        return self.limits_time and state.open > 0 and not state.flops
