"""Attempts of trials: their history, and the rules for another one."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from time import time as now

from hptransfer.config.retry import MAX_DELAY_S, RetryConfig
from hptransfer.core.attempts import Attempt, History, last_progress, read_history, reset_trial, write_history
from hptransfer.core.records import CANCELLED, FAILED, KILLED, Job, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.trial_index import TrialIndex


def delay_before_next(history: History, retry: RetryConfig, max_attempts: int) -> float | None:
    """Return the seconds until another attempt; None if the rule allows none."""
    cause = history.attempts[-1].cause
    if cause is None:
        return 0.0
    rule = retry.rule(cause)
    counted = history.counted(cause, progress=rule.progress)
    if counted >= (max_attempts if rule.attempts is None else rule.attempts):
        return None
    return float(min(rule.delay_s * rule.growth ** max(0, counted - 1), MAX_DELAY_S))


class AttemptLog:
    """Histories of a run's trials, which decide on further attempts.

    The device time of every recorded attempt is added to the index.
    """

    def __init__(self, folder: RunFolder, index: TrialIndex, retry: RetryConfig, max_attempts: int) -> None:
        self._folder, self._index = folder, index
        self._retry, self._max_attempts = retry, max_attempts

    def restore(self, trial_id: str) -> None:
        """Add the device time of a trial's earlier attempts to the index."""
        self._index.spend(trial_id, read_history(self._folder, trial_id).seconds)

    def is_last(self, job: Job, trial_id: str) -> bool:
        """Test if a trial's history ends with a job's current attempt."""
        attempts = read_history(self._folder, trial_id).attempts
        return bool(attempts) and (attempts[-1].job, attempts[-1].number) == (job.id, job.attempt)

    def add(self, job: Job, trial_id: str, cause: str | None, detail: str, node: str | None, seconds: float) -> History:
        """Add a job's attempt to a trial's history."""
        step, checkpoint, began = last_progress(self._folder, trial_id, job.id)
        attempt = Attempt(
            time=now(),
            cause=cause,
            job=job.id,
            number=job.attempt,
            node=node,
            detail=detail,
            step=step,
            began=began,
            checkpoint=checkpoint,
            seconds=seconds,
        )
        history = read_history(self._folder, trial_id).with_attempt(attempt)
        write_history(self._folder, trial_id, history)
        self._index.spend(trial_id, seconds)
        return history

    def reset(self, trial_id: str, outcome: Outcome, job_id: str) -> None:
        """Turn a failed outcome into an attempt, so that another may follow."""
        seconds_before = read_history(self._folder, trial_id).seconds
        history = reset_trial(self._folder, trial_id, outcome, job=job_id, forgive=False)
        self._index.spend(trial_id, history.seconds - seconds_before)

    def delay(self, history: History) -> float | None:
        """Return the seconds until another attempt; None if the rule allows none."""
        return delay_before_next(history, self._retry, self._max_attempts)

    def last_delay(self, trial_id: str) -> float:
        """Return the delay after a trial's last attempt.

        It is 0 if all attempts were forgiven.
        """
        history = read_history(self._folder, trial_id)
        if len(history.attempts) == history.since:
            return 0.0
        return self.delay(history) or 0.0

    def allows_another(self, trial_id: str, outcome: Outcome) -> bool:
        """Test if the rule of a failed outcome's cause allows another attempt."""
        history = read_history(self._folder, trial_id)
        if outcome.attempts > len(history.attempts):
            history = history.with_attempt(Attempt(time=now(), cause=outcome.cause))
        return self.delay(history) is not None

    def seconds_per_trial(
        self, job: Job, unfinished: Sequence[str], ran_s: float | None, finished_s: float = 0.0
    ) -> float:
        """Return the device seconds of an attempt for each unfinished trial.

        They are 0 if the attempt never started.

        Args:
            ran_s: seconds that its launcher saw it run; None if none did.
            finished_s: seconds that it spent on trials that it finished.
        """
        if ran_s is None:
            ran_s = self._leased_s(job, unfinished)
        return max(0.0, ran_s - finished_s) / max(1, len(unfinished))

    def _leased_s(self, job: Job, unfinished: Sequence[str]) -> float:
        """Return the seconds since a worker of this machine started a job.

        Clocks of two machines are not compared, so it is 0 for another machine's.
        """
        leased_since = [self._leased_here_since(trial_id) for trial_id in unfinished]
        began = min((since for since in leased_since if since >= job.submitted), default=None)
        return 0.0 if began is None else now() - began

    def _leased_here_since(self, trial_id: str) -> float:
        """Start of a trial's last lease by this machine.

        It is in seconds since 1970, and 0 without one.
        """
        try:
            lease = json.loads(self._folder.lease(trial_id).read_text(encoding="utf-8"))
            return float(lease["since"]) if lease["host"] == socket.gethostname() else 0.0
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def given_up(self, trial_id: str, history: History) -> Outcome:
        """Return the outcome of a trial that no rule allows another attempt."""
        cause = history.attempts[-1].cause or KILLED
        return self._failure(trial_id, describe_failure(history), cause, len(history.attempts))

    def cancelled(self, trial_id: str) -> Outcome:
        """Return the outcome of a trial that is cancelled."""
        attempts = len(read_history(self._folder, trial_id).attempts) + 1
        return self._failure(trial_id, "cancelled", CANCELLED, attempts)

    def _failure(self, trial_id: str, error: str, cause: str, attempts: int) -> Outcome:
        step, *_ = last_progress(self._folder, trial_id, "")
        return Outcome(state=FAILED, error=error, cause=cause, attempts=attempts, steps=step)


def describe_failure(history: History) -> str:
    """Describe the last of several attempts that ended alike."""
    last = history.attempts[-1]
    count = sum(attempt.cause == last.cause for attempt in history.attempts[history.since :])
    where = f" on {last.node}" if last.node else ""
    if last.cause == KILLED:
        return f"its worker died {count} times while training it, last {last.detail}{where}"
    times = f", attempt {count}" if count > 1 else ""
    return f"{last.cause}{where}{times}" + (f": {last.detail}" if last.detail else "")
