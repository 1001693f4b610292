"""SLURM launcher: submit jobs in arrays and poll their states.

Results of a job are in the trial folders: a job whose trials all have outcomes has ended, whatever the scheduler
reports. The states of the other jobs are polled, at intervals that grow while nothing changes.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hptransfer.core.errors import EXIT_STOPPED, EXIT_UNFINISHED, RunFolderError
from hptransfer.core.io import read_json, read_tail, reading, write_json
from hptransfer.core.records import CANCELLED, KILLED, NODE_FAILURE, PREEMPTED, TIME_LIMIT, Job
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import JobEnd, Launcher
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands
from hptransfer.launchers.slurm.node_exclusion import NodeExclusion
from hptransfer.launchers.slurm.settings import SlurmSettings
from hptransfer.launchers.slurm.states import (
    END_CAUSES,
    SchedulerJob,
    array_id,
    ask_accounting,
    ask_queue,
    describe_end,
)
from hptransfer.launchers.slurm.submission import STATES_FILE, Submitter

JOB_NUMBER = re.compile(r"\d+(_\d+)?", re.ASCII)
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,\[\]-]*")
OUTCOME_CHECK_S = 1.0
"""Seconds between two checks for outcomes of submitted jobs."""
SLEEP_S = 0.1
ACCOUNTING_LAG_S, RECHECK_S = 10.0, 3.0
"""Largest delay of accounting behind the queue, in seconds, and the time after which accounting is asked again. Only
accounting has the exit code."""
POLLS_PER_QUEUE_CHECK = 4
"""Number of polls for each one that also asks the queue. Only the queue has the reasons for waiting, and it reveals
jobs that are gone although accounting reports them as running."""
POLL_GROWTH = 1.5
MIN_BATCH_SHARE = 0.1
"""Share of the waiting jobs below which new jobs are gathered until the next poll: they would start after all of the
waiting ones in any case."""


@dataclass
class SubmittedJob:
    """Submitted job that has not been reported as ended."""

    job: Job
    num_finished: int = 0
    """Number of trials, counted from the first, whose outcomes exist."""
    finished_at: float | None = None
    """Time at which the last outcome was found."""
    missing_since: float | None = None
    """Time since which the scheduler has no record of the job as running or waiting."""
    record: SchedulerJob | None = None
    """Last record from the scheduler."""
    running_since: float | None = None
    """Time since which the job is seen running, on the monotonic clock."""
    seen_s: float = 0.0
    """Seconds for which it was seen running; accounting may be away."""
    cancelled: bool = False

    @property
    def number(self) -> str:
        """SLURM's id of the job."""
        return self.job.scheduler or ""

    @property
    def state(self) -> str | None:
        """Last state from the scheduler."""
        return self.record.state if self.record else None

    def observe_running(self) -> None:
        """Note for how long the job is running by its last record."""
        now = time.monotonic()
        if self.record is not None and self.state == "RUNNING":
            self.running_since = self.running_since or now
            self.seen_s = max(now - self.running_since, self.record.seconds)
        elif self.state == "PENDING":
            self.running_since, self.seen_s = None, 0.0


class SlurmLauncher(Launcher):
    """Launcher of jobs on a cluster, which continue without the launcher."""

    def __init__(self, folder: RunFolder, config: SlurmSettings) -> None:
        self._folder, self._config = folder, config
        self.calls = SlurmCommands()
        self._submission = Submitter(folder, config, self.calls)
        self._nodes = NodeExclusion(
            config.fast_failure_s, config.exclude_after, config.max_excluded, _read_excluded_nodes(folder)
        )
        self._submitted: dict[str, SubmittedJob] = {}
        self._ended: list[JobEnd] = []
        self._polls, self._states_written = 0, False
        self._pause = config.poll_min_s
        self._next_poll = self._next_check = time.monotonic()
        self._recheck = math.inf

    @property
    def slots(self) -> int:
        submit = self._submission.limits.submit
        return self._config.max_jobs if submit is None else max(1, min(submit, self._config.max_jobs))

    @property
    def _numbers(self) -> dict[str, str]:
        """SLURM's ids of the submitted jobs, by job id."""
        return {job_id: str(entry.job.scheduler) for job_id, entry in self._submitted.items()}

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Submit jobs; hold those that are refused for now.

        Held jobs are submitted later, and their files are then rewritten. A few jobs behind a long queue are also held
        until the next poll, so that not every end of a job causes a call of sbatch.

        Raises:
            StoppedError: the scheduler refuses a job permanently, for example for a partition that does not exist.
            ConfigError: a rule has no value for one of the jobs.
        """
        self._submission.held |= {job.id: job for job in jobs}
        waiting = sum(entry.state == "PENDING" for entry in self._submitted.values())
        if len(self._submission.held) < MIN_BATCH_SHARE * waiting:
            self._poll_soon()
            return {}
        return self._submit_held()

    def _submit_held(self) -> dict[str, str]:
        held = dict(self._submission.held)
        numbers = self._submission.submit(self._numbers, self._nodes.excluded)
        self._submitted |= {
            job_id: SubmittedJob(replace(held[job_id], scheduler=number)) for job_id, number in numbers.items()
        }
        if numbers:
            self._poll_soon()
        if not self._states_written:
            self._write_states()
        return numbers

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        """Adopt all jobs that have a number.

        `wait` soon reports those that ended meanwhile, with their causes.

        Raises:
            RunFolderError: a job's number cannot be SLURM's.
        """
        for job in jobs:
            if job.scheduler is not None and not JOB_NUMBER.fullmatch(job.scheduler):
                raise RunFolderError(
                    f"{self._folder.job_path(job.id)}: scheduler must be a SLURM job such as 1234_5, got "
                    f"{job.scheduler!r}; move the file away, and its trials are submitted again"
                )
        known = {job.id: SubmittedJob(job) for job in jobs if job.scheduler is not None}
        self._submitted |= known
        self._submission.unconfirmed = not self._submission.cancel_orphaned_jobs(self._numbers.values())
        self._poll_soon(at_once=True)
        return set(known)

    # --- ends ---

    def wait(self, timeout_s: float) -> list[JobEnd]:
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if now >= self._next_check:
                self._check_outcomes(now)
                self._next_check = now + OUTCOME_CHECK_S
            if now >= self._next_poll:
                self._poll()
            ended, self._ended = self._ended, []
            if ended or now >= deadline:
                return ended
            time.sleep(min(SLEEP_S, max(0.0, deadline - now)))

    def _check_outcomes(self, now: float) -> None:
        for entry in list(self._submitted.values()):
            if entry.finished_at is None and self._all_done(entry):
                entry.finished_at = now
            if entry.finished_at is not None and now >= entry.finished_at + self._config.grace_s:
                self._report_end(entry, JobEnd(entry.job.id, node=entry.record.node if entry.record else None))

    def _all_done(self, entry: SubmittedJob) -> bool:
        trials = entry.job.trials
        while entry.num_finished < len(trials) and self._folder.outcome_path(trials[entry.num_finished]).exists():
            entry.num_finished += 1
        return entry.num_finished == len(trials)

    def _report_end(self, entry: SubmittedJob, ended: JobEnd) -> None:
        del self._submitted[entry.job.id]
        self._ended.append(replace(ended, cause=CANCELLED) if entry.cancelled and ended.cause else ended)
        if self._submission.held and self._config.max_running:
            self._poll_soon()

    def _poll(self) -> None:
        """Submit the held jobs, and read the states of all jobs."""
        self._recheck = math.inf
        before = {job_id: entry.state for job_id, entry in self._submitted.items()}
        if self._submission.held:
            for job_id in self._submit_held():
                self._folder.write_job(self._submitted[job_id].job)
        if self._submitted:
            self._update_states()
        self._write_states()
        after = {job_id: entry.state for job_id, entry in self._submitted.items()}
        grown = min(self._pause * POLL_GROWTH, self._config.poll_max_s)
        self._pause = grown if before == after else self._config.poll_min_s
        self._next_poll = min(time.monotonic() + self._pause, self._recheck)

    def _poll_soon(self, *, at_once: bool = False) -> None:
        """Poll after the shortest pause, because something has changed."""
        self._pause = self._config.poll_min_s
        self._next_poll = min(self._next_poll, time.monotonic() + (0.0 if at_once else self._pause))

    def _update_states(self) -> None:
        entries = list(self._submitted.values())
        arrays = sorted({array_id(entry.number) for entry in entries}, key=int)
        accounts = ask_accounting(self.calls, arrays)
        # An end must be confirmed: a requeued job has ended in accounting, and is again in the queue.
        all_alive = accounts is not None and all(
            entry.missing_since is None and _is_alive(accounts.get(entry.number)) for entry in entries
        )
        queue = None
        if not all_alive or self._polls % POLLS_PER_QUEUE_CHECK == 0:
            queue = ask_queue(self.calls, arrays)
        self._polls += 1
        for entry in entries:
            account = None if accounts is None else accounts.get(entry.number, SchedulerJob("UNKNOWN"))
            self._update_state(entry, account, queue)
        uncancelled = [entry for entry in self._submitted.values() if entry.cancelled and _is_alive(entry.record)]
        if uncancelled and queue is not None:
            self._scancel(uncancelled)

    def _update_state(
        self, entry: SubmittedJob, account: SchedulerJob | None, queue: Mapping[str, SchedulerJob] | None
    ) -> None:
        queued = None if queue is None else queue.get(entry.number)
        if queued is not None and not queued.ended:
            seconds = account.seconds if account is not None and not account.ended else 0
            entry.record, entry.missing_since = replace(queued, seconds=seconds), None
        elif account is not None and account.ended:
            if queue is not None or account.state == "COMPLETED":
                self._confirm_end(entry, account)
        elif queued is not None:
            no_lag = account is None or queued.state == "COMPLETED"
            self._confirm_end(entry, queued, lag_s=0.0 if no_lag else ACCOUNTING_LAG_S)
        elif queue is not None:
            self._handle_missing(entry, account)
        elif account is not None:  # accounting has no reason for waiting: keep that of the queue
            reason = entry.record.reason if entry.record is not None and entry.state == account.state else ""
            entry.record = replace(account, reason=account.reason or reason)
        entry.observe_running()
        record = entry.record
        if record is not None and record.state == "RUNNING" and record.seconds > self._config.fast_failure_s:
            self._nodes.record_success(record.node)

    def _confirm_end(self, entry: SubmittedJob, record: SchedulerJob, lag_s: float = 0.0) -> None:
        """Report a job that has ended by the scheduler's record.

        Its outcomes may become visible here a moment later.

        Args:
            lag_s: seconds that accounting may be behind the record.
        """
        now = time.monotonic()
        entry.record = record
        if self._all_done(entry):
            self._nodes.record_success(record.node)
            self._report_end(entry, JobEnd(entry.job.id, node=record.node or None))
            return
        entry.missing_since = entry.missing_since or now
        until = entry.missing_since + max(lag_s, self._config.grace_s)
        if now < until:
            self._recheck = min(self._recheck, until, now + RECHECK_S)
            return
        ended = self._explain_end(entry, record)
        if ended.cause in (KILLED, NODE_FAILURE) and not entry.cancelled:
            self._nodes.record_failure(record.node, record.seconds, ended.detail)
        self._report_end(entry, ended)

    def _explain_end(self, entry: SubmittedJob, record: SchedulerJob) -> JobEnd:
        code = record.code.partition(":")[0]
        last = self._last_stop_line(entry.job.id)
        cause, stopped = END_CAUSES[record.state], None
        if cause == KILLED and code == str(EXIT_UNFINISHED):  # the worker left by itself, with a checkpoint
            cause = TIME_LIMIT if last.endswith(f"stops: {TIME_LIMIT}") else PREEMPTED
        elif cause == KILLED and code == str(EXIT_STOPPED):
            stopped = last.partition("stops: ")[2] or "the run folder cannot be written"
        detail = describe_end(record) if cause else ""
        return JobEnd(entry.job.id, cause, detail, record.node or None, stopped, record.seconds or entry.seen_s)

    def _last_stop_line(self, job: str) -> str:
        """Return the last log line in which the worker reports a stop."""
        lines = read_tail(self._folder.jobs / f"{job}.log", 4096)
        return next((line.rstrip() for line in reversed(lines) if "stops: " in line), "")

    def _handle_missing(self, entry: SubmittedJob, account: SchedulerJob | None) -> None:
        """Report a job that stays missing without a recorded end.

        A job that is cancelled before it started never has a record.
        """
        now = time.monotonic()
        entry.missing_since = entry.missing_since or now
        entry.record = account or SchedulerJob("UNKNOWN")
        until = entry.missing_since + (self._config.grace_s if entry.cancelled else self._config.lost_after_s)
        self._recheck = min(self._recheck, max(until, now + SLEEP_S)) if entry.cancelled else self._recheck
        if now >= until:
            gone = f"SLURM job {entry.job.scheduler} has been in no queue for {self._config.lost_after_s:.0f} s"
            detail = f"{gone}; accounting calls it {entry.record.state}"
            self._report_end(entry, JobEnd(entry.job.id, KILLED, detail, seconds=entry.seen_s))

    # --- the rest ---

    def cancel(self, jobs: Collection[str]) -> None:
        for job_id in [job_id for job_id in self._submission.held if job_id in jobs]:
            del self._submission.held[job_id]
            self._ended.append(JobEnd(job_id, CANCELLED, "before it was submitted", seconds=0.0))
        chosen = [entry for job_id, entry in self._submitted.items() if job_id in jobs]
        if not chosen:
            return
        for entry in chosen:
            entry.cancelled = True
        self._scancel(chosen)
        self._pause = self._config.poll_min_s
        self._next_poll = min(self._next_poll, time.monotonic() + min(1.0, self._pause))

    def _scancel(self, entries: Sequence[SubmittedJob]) -> None:
        """Cancel jobs in one call; the next poll repeats it where needed."""
        with contextlib.suppress(CallError):
            self.calls.run("scancel", *(str(entry.job.scheduler) for entry in entries))

    def close(self) -> None:
        """Write the states of the submitted jobs; the jobs continue."""
        self._write_states()

    def _write_states(self) -> None:
        states = {
            job_id: {
                "state": entry.record.state if entry.record else "SUBMITTED",
                "reason": entry.record.reason if entry.record else "",
                "node": entry.record.node if entry.record else "",
                "scheduler": entry.job.scheduler,
            }
            for job_id, entry in self._submitted.items()
        }
        reason = self._submission.hold_reason or ("max_running" if self._config.max_running else "gathered")
        for job_id in self._submission.held:
            states[job_id] = {"state": "HELD", "reason": reason, "node": "", "scheduler": None}
        values = {"jobs": states, "checked": time.time(), "excluded": self._nodes.excluded, "calls": self.calls.counts}
        write_json(self._folder.jobs / STATES_FILE, values)
        self._states_written = True


def _is_alive(record: SchedulerJob | None) -> bool:
    return record is not None and not record.ended


def _read_excluded_nodes(folder: RunFolder) -> dict[str, str]:
    """Return the nodes that an earlier driver excluded, with the reasons.

    Raises:
        RunFolderError: the file is damaged, or a name cannot be a node's; it would become a line of a batch script.
    """
    path = folder.jobs / STATES_FILE
    if not path.exists():
        return {}
    excluded = read_json(path).get("excluded", {})
    with reading(path):
        for node in excluded:
            if not NODE_NAME.fullmatch(node):
                raise ValueError(f"excluded node {node!r}")
        return dict(excluded)
