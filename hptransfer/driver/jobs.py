"""Jobs from submission to end, with retries and cancellation.

A job keeps its id and its trials through all attempts, so that its split into stacks stays the same. Attempts are
counted in `retries`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import monotonic
from time import time as now
from typing import TypeVar

from hptransfer.config.retry import RetryConfig
from hptransfer.core.errors import StoppedError
from hptransfer.core.io import write_json
from hptransfer.core.locks import locked_by
from hptransfer.core.records import FAILED, KILLED, Job, Outcome, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import SCHEDULER_RUNNING
from hptransfer.driver.job_states import WITH_LAUNCHER, WITH_WORKER, JobEvent, JobState, next_state
from hptransfer.driver.retries import AttemptLog
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.launchers import JobEnd, Launcher

Value = TypeVar("Value")
NUM_WRITERS = 16


def write_in_parallel(write: Callable[[Value], None], values: Sequence[Value]) -> None:
    """Write many files at once.

    A disk confirms a dozen in the time of one.
    """
    if len(values) < 2:
        for value in values:
            write(value)
        return
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        for _ in pool.map(write, values):
            pass


@dataclass
class TrackedJob:
    """One job as the driver follows it.

    Attributes:
        due: when its next attempt may be submitted, on the monotonic clock; used while it is DELAYED.
        to_cancel: trials of it that are cancelled once the attempt has ended.
        settled: trials whose history says already how the current attempt ended for them, or that were reset since;
            the attempt's end is not counted against them.
    """

    job: Job
    state: JobState = JobState.ENDED
    due: float = 0.0
    to_cancel: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)


class JobManager:
    """All jobs of one trial set, each in one state of `JobState`.

    Args:
        on_trial_end: called with every trial that has ended, and its outcome.
    """

    def __init__(
        self,
        folder: RunFolder,
        launcher: Launcher,
        index: TrialIndex,
        retry: RetryConfig,
        max_attempts: int,
        on_trial_end: Callable[[Trial, Outcome], None],
    ) -> None:
        self._folder, self._launcher, self._index = folder, launcher, index
        self._attempts = AttemptLog(folder, index, retry, max_attempts)
        self._on_trial_end = on_trial_end
        self._tracked: dict[str, TrackedJob] = {}
        self._job_of_trial: dict[str, str] = {}
        # An index of `TrackedJob.state`: no question of a tick reads the jobs that have ended.
        self._by_state: dict[JobState, dict[str, TrackedJob]] = {state: {} for state in JobState}

    def _move(self, tracked: TrackedJob, event: JobEvent) -> None:
        """Move a job to the state that follows an event."""
        state = next_state(tracked.state, event)
        if state is not tracked.state:
            del self._by_state[tracked.state][tracked.job.id]
            self._by_state[state][tracked.job.id] = tracked
            tracked.state = state

    def _in(self, *states: JobState) -> Iterator[TrackedJob]:
        """Jobs in any of these states."""
        for state in states:
            yield from list(self._by_state[state].values())

    def _track(self, job: Job) -> TrackedJob:
        """Return the record of a job with its latest attempt.

        A new record is ENDED.
        """
        tracked = self._tracked.get(job.id)
        if tracked is None:
            tracked = self._tracked[job.id] = self._by_state[JobState.ENDED][job.id] = TrackedJob(job)
        tracked.job = job
        return tracked

    @property
    def submitted(self) -> list[str]:
        """Ids of the jobs that the launcher has."""
        return [tracked.job.id for tracked in self._in(*WITH_LAUNCHER)]

    @property
    def in_flight(self) -> bool:
        """True if the launcher or an adopted worker has a job."""
        return any(self._by_state[state] for state in (*WITH_LAUNCHER, *WITH_WORKER))

    @property
    def delayed(self) -> dict[str, int]:
        """Due times of delayed jobs, in whole seconds since 1970."""
        since = now() - monotonic()
        return {tracked.job.id: round(since + tracked.due) for tracked in self._in(JobState.DELAYED)}

    @property
    def free(self) -> int:
        """Number of jobs that the launcher would accept now."""
        return self._launcher.slots - sum(len(self._by_state[state]) for state in WITH_LAUNCHER)

    def restore(self) -> None:
        """Restore outcomes and jobs from disk.

        Unfinished jobs become SUBMITTED or ADOPTED if they still run, otherwise DELAYED.
        """
        for job in sorted(read_jobs(self._folder), key=lambda job: job.submitted):
            if any(trial_id in self._index.trials for trial_id in job.trials):
                self._track(job)
                self._job_of_trial |= dict.fromkeys(job.trials, job.id)
        for trial_id in self._index.trials:
            self._attempts.restore(trial_id)
            self._accept_outcome(trial_id, was_open=False)
        unfinished = [tracked for tracked in self._tracked.values() if self._unfinished(tracked.job)]
        known = self._launcher.adopt([tracked.job for tracked in unfinished if not self._is_counted(tracked.job)])
        for tracked in unfinished:
            self._index.start(self._unfinished(tracked.job))
            if tracked.job.id in known:
                self._move(tracked, JobEvent.SUBMIT)
            elif self._is_leased(tracked.job):
                self._move(tracked, JobEvent.ADOPT)
            else:
                self._on_unseen_end(tracked)

    def job_of(self, trial_id: str) -> str:
        """Return the id of a trial's job; empty without one."""
        return self._job_of_trial.get(trial_id, "")

    def open_trials(self, but: Collection[str] = ()) -> set[str]:
        """Return unfinished trials of all jobs in flight, except some jobs."""
        jobs = [tracked.job for tracked in self._in(*WITH_LAUNCHER, *WITH_WORKER) if tracked.job.id not in but]
        return {trial for job in jobs for trial in self._unfinished(job)}

    def expected_s(self) -> float:
        """Return the expected device seconds of all jobs in flight.

        They count from the beginning of the job.

        A scale without a measured trial counts as zero.
        """
        total = 0.0
        for tracked in self._in(*WITH_LAUNCHER, *WITH_WORKER):
            unfinished = [self._index.trials[trial] for trial in self._unfinished(tracked.job)]
            total += (self._index.seconds(unfinished) or 0.0) * self._index.at(tracked.job.scale).devices
        return total

    def waiting(self, states: Mapping[str, Mapping[str, str]]) -> set[str]:
        """Return submitted jobs that neither scheduler nor lease shows running.

        The scheduler is asked at intervals, so a lease may be known first.

        Args:
            states: the scheduler's, by job; empty without a scheduler, and then all jobs run.
        """
        if not states:
            return set()
        jobs = [tracked.job for tracked in self._in(*WITH_LAUNCHER)]
        not_running = [job for job in jobs if states.get(job.id, {}).get("state") != SCHEDULER_RUNNING]
        return {job.id for job in not_running if not self._is_leased(job)}

    def _unfinished(self, job: Job) -> list[str]:
        index = self._index
        return [
            trial
            for trial in job.trials
            if trial in index.trials and trial not in index.outcomes and self._job_of_trial[trial] == job.id
        ]

    def _is_leased(self, job: Job) -> bool:
        """True if a worker holds a lease of the job's unfinished trials."""
        return any(locked_by(self._folder.lease(trial)) for trial in self._unfinished(job))

    def _is_counted(self, job: Job) -> bool:
        """True if all unfinished trials' histories hold the last attempt.

        An earlier driver has counted it then, so a launcher that still knows the job is not asked for it.
        """
        return all(self._attempts.is_last(job, trial) for trial in self._unfinished(job))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit new jobs and next attempts in one call.

        A job's file is on disk before it is submitted and names the attempt. If the driver ends in between, the next
        one asks the launcher for the job. If the launcher does not know it, the job is submitted again under another
        number. A worker of the earlier number then leaves at once.
        """
        if not jobs:
            return
        for job in jobs:
            self._move(self._track(job), JobEvent.SUBMIT)
            self._job_of_trial |= dict.fromkeys(job.trials, job.id)
        write_in_parallel(self._folder.write_job, jobs)
        scheduler_ids = self._launcher.submit(jobs)
        numbered = [replace(self._tracked[job_id].job, scheduler=name) for job_id, name in scheduler_ids.items()]
        for job in numbered:
            self._track(job)
        write_in_parallel(self._folder.write_job, numbered)

    def submit_due(self) -> None:
        """Submit again what is due, while there are free slots."""
        moment = monotonic()
        due = sorted(
            (delayed for delayed in self._in(JobState.DELAYED) if delayed.due <= moment),
            key=lambda delayed: delayed.due,
        )
        jobs = []
        for tracked in due[: max(0, self.free)]:
            job = tracked.job
            self._accept_outcomes(job)  # one may be visible only now, such as on a slow file system
            unfinished = self._unfinished(job)
            if not unfinished:
                self._move(tracked, JobEvent.FINISH)
                continue
            seconds = self._index.seconds(self._index.trials[trial] for trial in unfinished) or job.seconds
            jobs.append(replace(job, attempt=job.attempt + 1, scheduler=None, submitted=now(), seconds=seconds))
        self.submit(jobs)

    def _accept_outcomes(self, job: Job) -> None:
        """Record the outcomes that the job's unfinished trials have by now."""
        for trial in self._unfinished(job):
            self._accept_outcome(trial, was_open=True)

    def _accept_outcome(self, trial_id: str, *, was_open: bool) -> None:
        """Record a trial's outcome, or reset the trial for another attempt.

        A trial without an outcome stays as it is.
        """
        outcome = self._folder.read_outcome(trial_id)
        if outcome is None:
            return
        job = self.job_of(trial_id)
        if outcome.state == FAILED and outcome.cause and self._attempts.allows_another(trial_id, outcome):
            self._attempts.reset(trial_id, outcome, job)
            if job:
                self._tracked[job].settled.add(trial_id)
            return
        self._finish(trial_id, outcome, was_open=was_open)

    def _finish(self, trial_id: str, outcome: Outcome, *, was_open: bool) -> None:
        """Record an outcome that stands."""
        job = self.job_of(trial_id)
        if job:
            self._tracked[job].to_cancel.discard(trial_id)
            self._tracked[job].settled.discard(trial_id)
        self._index.finish(trial_id, outcome, was_open=was_open, job=job)
        self._on_trial_end(self._index.trials[trial_id], outcome)

    def end(self, ended: JobEnd) -> None:
        """Record the end of a job's attempt.

        Trials that it left unfinished are delayed or failed, by rule.

        Raises:
            StoppedError: a worker could not write.
        """
        tracked = self._tracked[ended.job]
        job = tracked.job
        before = self._finished_seconds(job)
        self._accept_outcomes(job)
        if ended.stopped:
            raise StoppedError(
                f"stopped: a worker could not write: {ended.stopped}; finished trials are kept: make room, "
                "then run the same command again"
            )
        unfinished = self._unfinished(job)
        if unfinished and ended.cause is None and self._is_leased(job):
            self._move(tracked, JobEvent.ADOPT)
        else:
            self._count_attempt(tracked, unfinished, ended, self._finished_seconds(job) - before)

    def _finished_seconds(self, job: Job) -> float:
        outcomes = (self._index.outcomes.get(trial) for trial in job.trials)
        return sum(outcome.seconds for outcome in outcomes if outcome is not None)

    def _count_attempt(self, tracked: TrackedJob, unfinished: Sequence[str], ended: JobEnd, finished_s: float) -> None:
        """Count an attempt against unfinished trials; retry each by rule.

        A job that was stopped to cancel some of its trials counts against none of the others.
        """
        stopping = tracked.state is JobState.STOPPING
        cause = None if stopping else ended.cause or KILLED
        detail = (
            "stopped before its end, not by a failure of its own" if stopping else ended.detail or "it left no outcome"
        )
        delays = []
        for trial in unfinished:
            if trial in tracked.to_cancel:
                self._cancel([trial])
            elif trial in tracked.settled:
                tracked.settled.discard(trial)
                delays.append(self._attempts.last_delay(trial))
            else:
                seconds = self._attempts.seconds_per_trial(tracked.job, unfinished, ended.seconds, finished_s)
                history = self._attempts.add(tracked.job, trial, cause, detail, ended.node, seconds)
                delay = self._attempts.delay(history)
                if delay is None:
                    self._fail({trial: self._attempts.given_up(trial, history)})
                else:
                    delays.append(delay)
        self._settle(tracked, delays)

    def _settle(self, tracked: TrackedJob, delays: Sequence[float]) -> None:
        """Delay a job by its trials' longest delay, or end it."""
        if not delays:
            self._move(tracked, JobEvent.FINISH)
            return
        tracked.due = monotonic() + max(delays)
        self._move(tracked, JobEvent.DELAY)

    def _on_unseen_end(self, tracked: TrackedJob) -> None:
        """Delay a job that ended while no driver watched.

        The cause is unknown, so it counts against no trial.
        """
        job = tracked.job
        unfinished = self._unfinished(job)
        share = self._attempts.seconds_per_trial(job, unfinished, None)
        delays = []
        for trial in unfinished:
            if trial in tracked.to_cancel:
                self._cancel([trial])
                continue
            delays.append(0.0)
            if trial in tracked.settled or self._attempts.is_last(job, trial):
                tracked.settled.discard(trial)
                delays.append(self._attempts.last_delay(trial))
            elif share:
                self._attempts.add(job, trial, None, "its driver ended", None, share)
        self._settle(tracked, delays)

    def _cancel(self, trials: Collection[str]) -> None:
        """Fail trials as cancelled."""
        self._fail({trial: self._attempts.cancelled(trial) for trial in trials})

    def _fail(self, outcomes: Mapping[str, Outcome]) -> None:
        """Write and record the outcomes of trials that no worker will train."""
        write_in_parallel(
            lambda trial: write_json(self._folder.outcome_path(trial), outcomes[trial].to_json()), list(outcomes)
        )
        for trial, outcome in outcomes.items():
            self._finish(trial, outcome, was_open=bool(self.job_of(trial)))

    def check_adopted(self) -> None:
        """Record outcomes of adopted jobs and the end of their workers."""
        for tracked in self._in(*WITH_WORKER):
            self._accept_outcomes(tracked.job)
            if self._is_leased(tracked.job):
                continue
            self._accept_outcomes(tracked.job)  # one may have been written before the lease was released
            if self._unfinished(tracked.job):
                self._on_unseen_end(tracked)
            else:
                self._move(tracked, JobEvent.FINISH)

    def cancel(self, trials: Collection[str]) -> set[str]:
        """Cancel trials at once, or stop their running jobs.

        Returns:
            Trials whose job has still to end.
        """
        immediate = []
        pending: dict[str, TrackedJob] = {}
        for trial in trials:
            tracked = self._tracked.get(self.job_of(trial))
            if tracked is None or tracked.state not in (*WITH_LAUNCHER, *WITH_WORKER):
                immediate.append(trial)
            else:
                tracked.to_cancel.add(trial)
                pending[trial] = tracked
        self._cancel(immediate)
        self._stop({tracked.job.id: tracked for tracked in pending.values()})
        for tracked in self._in(JobState.DELAYED):
            if not self._unfinished(tracked.job):
                self._move(tracked, JobEvent.FINISH)
        return set(pending)

    def _stop(self, jobs: Mapping[str, TrackedJob]) -> None:
        """Stop jobs in flight, unless they are being stopped."""
        submitted = {job_id for job_id, tracked in jobs.items() if tracked.state is JobState.SUBMITTED}
        adopted = [tracked for tracked in jobs.values() if tracked.state is JobState.ADOPTED]
        for job_id in submitted:
            self._move(jobs[job_id], JobEvent.STOP)
        if submitted:
            self._launcher.cancel(submitted)
        for tracked in adopted:
            self._move(tracked, JobEvent.STOP)
            self._end_worker(tracked.job)

    def withdraw(self, states: Mapping[str, Mapping[str, str]]) -> None:
        """Withdraw submitted jobs that do not run yet; their trials stay unfinished.

        Args:
            states: the scheduler's, by job.
        """
        self._stop({job_id: self._tracked[job_id] for job_id in self.waiting(states)})

    def _end_worker(self, job: Job) -> None:
        """End a worker on this machine that an earlier driver started."""
        for trial in self._unfinished(job):
            holder = locked_by(self._folder.lease(trial))
            if holder and holder.get("host") == socket.gethostname():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(holder["pid"]), signal.SIGTERM)
                return

    def train_again(self, trial_id: str) -> bool:
        """Schedule a reset trial's job for another attempt.

        Returns:
            False if the trial is in no job.
        """
        tracked = self._tracked.get(self.job_of(trial_id))
        if tracked is None:
            return False
        self._index.start([trial_id])
        if tracked.state in (*WITH_LAUNCHER, *WITH_WORKER):
            tracked.settled.add(trial_id)
        else:
            tracked.due = monotonic()
            self._move(tracked, JobEvent.DELAY)
        return True


def read_jobs(folder: RunFolder) -> list[Job]:
    """Return all jobs of a run folder, in no particular order."""
    with os.scandir(folder.jobs) as entries:
        ids = [entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")]
    return [folder.read_job(job) for job in ids if job.isalnum() and job != "states"]
