"""Jobs from their submission to their end: taken up from disk, submitted again by rule, cancelled.

A job keeps its id and its trials through all attempts, so that its split into stacks stays what it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import time as now
from typing import TypeVar

from hptransfer.config.retry import RetryConfig
from hptransfer.core.attempts import Attempt, History, last_progress, read_history, reset_trial, write_history
from hptransfer.core.errors import StoppedError
from hptransfer.core.io import write_json
from hptransfer.core.locks import locked_by
from hptransfer.core.records import CANCELLED, FAILED, KILLED, Job, Outcome, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import RUNNING
from hptransfer.driver.retries import delay_before_next
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.launchers import JobEnd, Launcher

Value = TypeVar("Value")
NUM_WRITERS = 16


def write_in_parallel(write: Callable[[Value], None], values: Sequence[Value]) -> None:
    """Writes many files: a disk confirms a dozen in the time of one."""
    if len(values) < 2:
        for value in values:
            write(value)
        return
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        for _ in pool.map(write, values):
            pass


class JobManager:
    """All jobs of one campaign that have unfinished trials.

    Args:
        took: called with every trial that has ended, and how.

    Attributes:
        jobs: that the launcher has.
        foreign: whose trials are held by a worker that an earlier driver started on this machine.
        due: that are to be submitted again, with the time from which on.
    """

    def __init__(
        self,
        folder: RunFolder,
        launcher: Launcher,
        book: TrialIndex,
        retry: RetryConfig,
        max_attempts: int,
        took: Callable[[Trial, Outcome], None],
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self.foreign: dict[str, Job] = {}
        self.due: dict[str, tuple[float, Job]] = {}
        self._folder, self._launcher, self._book = folder, launcher, book
        self._retry, self._max_attempts, self._took = retry, max_attempts, took
        self._all: dict[str, Job] = {}
        self._job_of: dict[str, str] = {}
        self._cancelling: set[str] = set()
        self._stopping: set[str] = set()
        self._spared: set[str] = set()

    def take_up(self) -> None:
        """Takes up outcomes and jobs on disk: what still runs goes on, what does not is due again."""
        for job in sorted(read_jobs(self._folder), key=lambda job: job.submitted):
            if any(trial_id in self._book.trials for trial_id in job.trials):
                self._all[job.id] = job
                self._job_of |= dict.fromkeys(job.trials, job.id)
        for trial_id in self._book.trials:
            self._book.spend(trial_id, read_history(self._folder, trial_id).seconds)
            self._take(trial_id, was_open=False)
        unfinished = [job for job in self._all.values() if self._unfinished(job)]
        known = self._launcher.adopt([job for job in unfinished if not self._is_counted(job)])
        for job in unfinished:
            self._book.start(self._unfinished(job))
            if job.id in known:
                self.jobs[job.id] = job
            elif self._held(job):
                self.foreign[job.id] = job
            else:
                self._interrupted(job)

    def job_of(self, trial_id: str) -> str:
        """The job that the trial is in; empty if it is in none yet."""
        return self._job_of.get(trial_id, "")

    def open_trials(self, but: Collection[str]) -> set[str]:
        """Trials of all jobs but some that are with the launcher or with a worker of an earlier driver."""
        jobs = [job for job in (*self.jobs.values(), *self.foreign.values()) if job.id not in but]
        return {trial for job in jobs for trial in self._unfinished(job)}

    def expected_s(self) -> float:
        """Seconds of devices that what is being trained will take from its beginning, as far as that is known."""
        total = 0.0
        for job in (*self.jobs.values(), *self.foreign.values()):
            left = [self._book.trials[trial] for trial in self._unfinished(job)]
            total += (self._book.seconds(left) or 0.0) * self._book.at(job.scale).devices
        return total

    def waiting(self, states: Mapping[str, Mapping[str, str]]) -> set[str]:
        """Jobs of which neither the scheduler, asked now and then, nor a trial's lease says that they run.

        Args:
            states: the scheduler's, by job; empty where there is none, and all jobs run.
        """
        if not states:
            return set()
        quiet = [job for job in self.jobs.values() if states.get(job.id, {}).get("state") != RUNNING]
        return {job.id for job in quiet if not self._held(job)}

    def _unfinished(self, job: Job) -> list[str]:
        book = self._book
        return [
            trial
            for trial in job.trials
            if trial in book.trials and trial not in book.outcomes and self._job_of[trial] == job.id
        ]

    def _held(self, job: Job) -> bool:
        return any(locked_by(self._folder.lease(trial)) for trial in self._unfinished(job))

    def _is_counted(self, job: Job) -> bool:
        """Whether the end of its last attempt is in the history of all that it left: it is no news to this driver."""
        return all(self._counts(job, trial) for trial in self._unfinished(job))

    def _counts(self, job: Job, trial: str) -> bool:
        attempts = read_history(self._folder, trial).attempts
        return bool(attempts) and (attempts[-1].job, attempts[-1].number) == (job.id, job.attempt)

    @property
    def free(self) -> int:
        """Jobs that the launcher would take now."""
        return self._launcher.slots - len(self.jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submits new jobs, or the next attempts of known ones, in one call.

        A job's file is there before it is submitted and names the attempt, so a driver that ends in
        between is followed by one that asks the launcher for the job, and submits it again under another
        number if the launcher does not know it; a worker of the number before then leaves at once.
        """
        if not jobs:
            return
        self._write(jobs)
        for job in jobs:
            self._job_of |= dict.fromkeys(job.trials, job.id)
        named = self._launcher.submit(jobs)
        self._write([replace(self._all[job_id], scheduler=scheduler) for job_id, scheduler in named.items()])

    def _write(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._all[job.id] = self.jobs[job.id] = job
        write_in_parallel(self._folder.write_job, jobs)

    def submit_due(self) -> None:
        """Submits again what is due, as far as there are free slots."""
        moment = now()
        ready = [(when, job) for when, job in self.due.values() if when <= moment]
        ready = sorted(ready, key=lambda item: item[0])[: max(0, self.free)]
        again = []
        for _, job in ready:
            del self.due[job.id]
            for trial in self._unfinished(job):  # written since the job's end was seen, on a slow file system say
                self._take(trial, was_open=True)
            if left := self._unfinished(job):
                seconds = self._book.seconds(self._book.trials[trial] for trial in left)
                again.append(
                    replace(
                        job, attempt=job.attempt + 1, scheduler=None, submitted=moment, seconds=seconds or job.seconds
                    )
                )
        self.submit(again)

    def _take(self, trial_id: str, *, was_open: bool) -> bool:
        """Takes up a trial's outcome, if there is one that stands."""
        outcome = self._folder.read_outcome(trial_id)
        if outcome is None:
            return False
        job = self.job_of(trial_id)
        if outcome.state == FAILED and outcome.cause and self._allows(trial_id, outcome, job):
            before = read_history(self._folder, trial_id).seconds
            history = reset_trial(self._folder, trial_id, outcome, job=job, forgive=False)
            self._book.spend(trial_id, history.seconds - before)
            self._spared.add(trial_id)
            return False
        self._book.finish(trial_id, outcome, was_open=was_open, job=job)
        self._took(self._book.trials[trial_id], outcome)
        return True

    def _allows(self, trial_id: str, outcome: Outcome, job: str) -> bool:
        """Whether the rule of a failed outcome's cause allows another attempt."""
        history = read_history(self._folder, trial_id)
        if outcome.attempts > len(history.attempts):
            history = history.plus(Attempt(time=now(), cause=outcome.cause))
        return delay_before_next(history, self._retry, self._max_attempts) is not None

    def end(self, ended: JobEnd) -> None:
        """Takes up what a job left behind, finished or not.

        Raises:
            StoppedError: the machine would not let it go on.
        """
        job = self.jobs.pop(ended.job)
        self._stopping.discard(job.id)
        before = self._finished_seconds(job)
        for trial in self._unfinished(job):
            self._take(trial, was_open=True)
        if ended.stopped:
            raise StoppedError(
                f"stopped: a worker could not write: {ended.stopped}; finished trials are kept: make room, "
                "then run the same command again"
            )
        if left := self._unfinished(job):
            if ended.cause is None and self._held(job):
                self.foreign[job.id] = job
            else:
                self._count(job, left, ended, self._finished_seconds(job) - before)

    def _finished_seconds(self, job: Job) -> float:
        outcomes = (self._book.outcomes.get(trial) for trial in job.trials)
        return sum(outcome.seconds for outcome in outcomes if outcome is not None)

    def _count(self, job: Job, left: Sequence[str], ended: JobEnd, finished_s: float) -> None:
        """Adds an attempt to the history of what a job left unfinished, and goes on by rule."""
        cancelled = self._cancelling & set(left)
        delays = []
        for trial in left:
            if trial in cancelled:
                self._cancel([trial])
                continue
            if trial in self._spared:  # its own history says already how it ended, or it was taken back since
                self._spared.discard(trial)
                delays.append(self._last_delay(trial))
                continue
            cause = None if cancelled else ended.cause or KILLED
            detail = "cancelled for another trial's sake" if cancelled else ended.detail or "it left no outcome"
            history = self._add_attempt(job, trial, cause, detail, ended.node, self._share(job, left, finished_s))
            delay = delay_before_next(history, self._retry, self._max_attempts)
            if delay is None:
                self._give_up(trial, history)
            else:
                delays.append(delay)
        if delays:
            self.due[job.id] = now() + max(delays), job

    def _last_delay(self, trial: str) -> float:
        history = read_history(self._folder, trial)
        if len(history.attempts) == history.since:
            return 0.0
        return delay_before_next(history, self._retry, self._max_attempts) or 0.0

    def _interrupted(self, job: Job) -> None:
        """A job that ended while no driver looked: nothing says by what, so nothing is counted."""
        left = self._unfinished(job)
        share = self._share(job, left, 0.0)
        delays = [0.0]
        for trial in left:
            if trial in self._cancelling:
                self._cancel([trial])
            elif trial in self._spared or self._counts(job, trial):
                self._spared.discard(trial)
                delays.append(self._last_delay(trial))
            elif share:
                self._add_attempt(job, trial, None, "its driver ended", None, share)
        if self._unfinished(job):
            self.due[job.id] = now() + max(delays), job

    def _add_attempt(
        self, job: Job, trial: str, cause: str | None, detail: str, node: str | None, seconds: float
    ) -> History:
        step, checkpoint = last_progress(self._folder, trial, job.id)
        attempt = Attempt(
            time=now(),
            cause=cause,
            job=job.id,
            number=job.attempt,
            node=node,
            detail=detail,
            step=step,
            checkpoint=checkpoint,
            seconds=seconds,
        )
        history = read_history(self._folder, trial).plus(attempt)
        write_history(self._folder, trial, history)
        self._book.spend(trial, seconds)
        return history

    def _share(self, job: Job, left: Sequence[str], finished_s: float) -> float:
        """Seconds that an attempt took its device for, an unfinished trial; 0 if it never started.

        Args:
            finished_s: what it spent on trials that it finished.
        """
        since = [self._held_since(trial) for trial in left]
        began = min((when for when in since if when >= job.submitted), default=None)
        return 0.0 if began is None else max(0.0, now() - began - finished_s) / len(left)

    def _held_since(self, trial: str) -> float:
        try:
            return float(json.loads(self._folder.lease(trial).read_text(encoding="utf-8"))["since"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def _give_up(self, trial: str, history: History) -> None:
        last, attempts = history.attempts[-1], len(history.attempts)
        self._fail({trial: self._failure(trial, describe_failure(history), last.cause or KILLED, attempts)})

    def _cancel(self, trials: Collection[str]) -> None:
        self._cancelling -= set(trials)
        attempts = {trial: len(read_history(self._folder, trial).attempts) + 1 for trial in trials}
        self._fail({trial: self._failure(trial, "cancelled", CANCELLED, attempts[trial]) for trial in trials})

    def _failure(self, trial: str, error: str, cause: str, attempts: int) -> Outcome:
        step, _ = last_progress(self._folder, trial, "")
        return Outcome(state=FAILED, error=error, cause=cause, attempts=attempts, steps=step)

    def _fail(self, outcomes: Mapping[str, Outcome]) -> None:
        """Writes the outcomes of trials that nobody will train."""
        write_in_parallel(
            lambda one: write_json(self._folder.outcome_path(one), outcomes[one].to_json()), list(outcomes)
        )
        for trial, outcome in outcomes.items():
            job = self.job_of(trial)
            self._book.finish(trial, outcome, was_open=bool(job), job=job)
            self._took(self._book.trials[trial], outcome)

    def look_at_foreign(self) -> None:
        """Jobs that a worker of an earlier driver holds: done, still held, or free again."""
        for job in list(self.foreign.values()):
            for trial in self._unfinished(job):
                self._take(trial, was_open=True)
            if not self._held(job):
                del self.foreign[job.id]
                for trial in self._unfinished(job):  # written between the two looks
                    self._take(trial, was_open=True)
                if self._unfinished(job):
                    self._interrupted(job)

    def cancel(self, wanted: Collection[str]) -> set[str]:
        """Cancels trials, as far as that can be done at once.

        Returns:
            Those whose job has still to end.
        """
        left, stop, free = set(), set(), []
        for trial in wanted:
            job = self.job_of(trial)
            if job in self.jobs or job in self.foreign:
                left.add(trial)
                stop.add(job)
            else:
                free.append(trial)
        self._cancel(free)
        self._cancelling |= left
        new = stop - self._stopping
        self._stopping |= new
        if mine := new & self.jobs.keys():
            self._launcher.cancel(mine)
        for job in new & self.foreign.keys():
            self._end_worker(self.foreign[job])
        for due in [job_id for job_id, (_, job) in self.due.items() if not self._unfinished(job)]:
            del self.due[due]
        return left

    def _end_worker(self, job: Job) -> None:
        """Ends a worker on this machine that an earlier driver started."""
        for trial in self._unfinished(job):
            holder = locked_by(self._folder.lease(trial))
            if holder and holder.get("host") == socket.gethostname():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(holder["pid"]), signal.SIGTERM)
                return

    def renew(self, trial_id: str) -> None:
        """Has a trial that was taken back trained by its own job again, if it is in one."""
        job_id = self.job_of(trial_id)
        if not job_id:
            return
        self._book.start([trial_id])
        if job_id in self.jobs or job_id in self.foreign:
            self._spared.add(trial_id)
        else:
            self.due[job_id] = now(), self._all[job_id]


def describe_failure(history: History) -> str:
    """One line about the last of several attempts that ended alike."""
    last = history.attempts[-1]
    count = sum(attempt.cause == last.cause for attempt in history.attempts[history.since :])
    where = f" on {last.node}" if last.node else ""
    if last.cause == KILLED:
        return f"its worker died {count} times while training it, last {last.detail}{where}"
    times = f", attempt {count}" if count > 1 else ""
    return f"{last.cause}{where}{times}" + (f": {last.detail}" if last.detail else "")


def read_jobs(folder: RunFolder) -> list[Job]:
    """All jobs of a run folder, in no order."""
    with os.scandir(folder.jobs) as entries:
        ids = [entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")]
    return [folder.read_job(job) for job in ids if job.isalnum() and job != "states"]
