"""SLURM: jobs in arrays by what they ask for, submitted by submitit; states by one sacct call for all of them.

What a job did is in the trial folders, and a job whose trials all have outcomes has ended whatever the scheduler says.
The scheduler is asked about the others, at intervals that grow while nothing changes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hptransfer.core.errors import EXIT_STOPPED, EXIT_UNFINISHED
from hptransfer.core.io import read_json, write_json
from hptransfer.core.records import CANCELLED, KILLED, NODE_FAILURE, PREEMPTED, TIME_LIMIT, Job
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import JobEnd, Launcher
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands
from hptransfer.launchers.slurm.node_exclusion import NodeExclusion
from hptransfer.launchers.slurm.settings import SlurmSettings
from hptransfer.launchers.slurm.states import ENDS, SchedulerJob, array_of, ask_accounting, ask_queue, describe_end
from hptransfer.launchers.slurm.submission import STATES_FILE, Submitter

LOOK_S = 1.0
"""Seconds between two looks at the outcomes of the jobs that are out."""
NAP_S = 0.1
BEHIND_S, RECHECK_S = 10.0, 3.0
"""Accounting, which alone knows the exit code, may be so many seconds behind the queue; it is asked again that soon."""
QUEUE_EVERY = 4
"""Every so many polls the queue is asked too: why jobs wait, and whether accounting calls running what is gone."""
GROWTH = 1.5
FEW = 0.1
"""Of the jobs that wait in the queue: fewer new ones than that are no hurry, they would come after all of those."""


@dataclass
class SubmittedJob:
    """A job that was submitted and has not been reported as ended."""

    job: Job
    done: int = 0
    """Trials at its beginning whose outcomes were seen."""
    finished: float | None = None
    """When the outcome of the last one was seen."""
    missing: float | None = None
    """Since when no record of it has been found."""
    seen: SchedulerJob | None = None
    cancelled: bool = False


class SlurmLauncher(Launcher):
    """The jobs of one run folder on a cluster. They go on without it."""

    def __init__(self, folder: RunFolder, config: SlurmSettings) -> None:
        self._folder, self._config = folder, config
        self.calls = SlurmCommands()
        self._submission = Submitter(folder, config, self.calls)
        self._nodes = NodeExclusion(config.fast_failure_s, config.exclude_after, config.max_excluded, _excluded(folder))
        self._out: dict[str, SubmittedJob] = {}
        self._ended: list[JobEnd] = []
        self._polls, self._told = 0, False
        self._pause = config.poll_min_s
        self._next_poll = self._next_look = time.monotonic()
        self._recheck = math.inf

    @property
    def slots(self) -> int:
        submit = self._submission.limits.submit
        return self._config.max_jobs if submit is None else max(1, min(submit, self._config.max_jobs))

    @property
    def _numbers(self) -> dict[str, str]:
        """What SLURM calls the jobs that are out."""
        return {job_id: str(out.job.scheduler) for job_id, out in self._out.items()}

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """What is refused for now stays here and is submitted later; its file is then written anew.

        So do a few behind a long queue, until the next poll: not each end of a job is to be a call of sbatch.

        Raises:
            StoppedError: the scheduler refuses a job for good, such as for a partition that there is not.
            ConfigError: a rule has no value for one of them.
        """
        self._submission.held |= {job.id: job for job in jobs}
        waiting = sum(out.seen is not None and out.seen.state == "PENDING" for out in self._out.values())
        if len(self._submission.held) < FEW * waiting:
            self._hurry()
            return {}
        return self._submit_held()

    def _submit_held(self) -> dict[str, str]:
        held = dict(self._submission.held)
        numbers = self._submission.submit(self._numbers, self._nodes.excluded)
        self._out |= {
            job_id: SubmittedJob(replace(held[job_id], scheduler=number)) for job_id, number in numbers.items()
        }
        if numbers:
            self._hurry()
        if not self._told:
            self._write_states()
        return numbers

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        """All that have a number; `wait` soon tells which of them ended meanwhile, and by what cause."""
        known = {job.id: SubmittedJob(job) for job in jobs if job.scheduler is not None}
        self._out |= known
        self._submission.unsure = not self._submission.cancel_strangers(self._numbers.values())
        self._hurry(at_once=True)
        return set(known)

    # --- ends ---

    def wait(self, timeout_s: float) -> list[JobEnd]:
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if now >= self._next_look:
                self._look_at_outcomes(now)
                self._next_look = now + LOOK_S
            if now >= self._next_poll:
                self._poll()
            ended, self._ended = self._ended, []
            if ended or now >= deadline:
                return ended
            time.sleep(min(NAP_S, max(0.0, deadline - now)))

    def _look_at_outcomes(self, now: float) -> None:
        for out in list(self._out.values()):
            if out.finished is None and self._all_done(out):
                out.finished = now
            if out.finished is not None and now >= out.finished + self._config.grace_s:
                self._end(out, JobEnd(out.job.id, node=out.seen.node if out.seen else None))

    def _all_done(self, out: SubmittedJob) -> bool:
        trials = out.job.trials
        while out.done < len(trials) and self._folder.outcome_path(trials[out.done]).exists():
            out.done += 1
        return out.done == len(trials)

    def _end(self, out: SubmittedJob, ended: JobEnd) -> None:
        del self._out[out.job.id]
        self._ended.append(replace(ended, cause=CANCELLED) if out.cancelled and ended.cause else ended)
        if self._submission.held and self._config.max_running:
            self._hurry()

    def _poll(self) -> None:
        """Asks the scheduler about all jobs at once, and notes what it says."""
        self._recheck = math.inf
        before = {job: out.seen and out.seen.state for job, out in self._out.items()}
        if self._submission.held:
            for job_id in self._submit_held():
                self._folder.write_job(self._out[job_id].job)
        if self._out:
            self._judge_all()
        self._write_states()
        after = {job: out.seen and out.seen.state for job, out in self._out.items()}
        grown = min(self._pause * GROWTH, self._config.poll_max_s)
        self._pause = grown if before == after else self._config.poll_min_s
        self._next_poll = min(time.monotonic() + self._pause, self._recheck)

    def _hurry(self, *, at_once: bool = False) -> None:
        """Something has changed: the next poll comes after the shortest pause."""
        self._pause = self._config.poll_min_s
        self._next_poll = min(self._next_poll, time.monotonic() + (0.0 if at_once else self._pause))

    def _judge_all(self) -> None:
        arrays = sorted({array_of(out.job.scheduler or "") for out in self._out.values()}, key=int)
        accounts = ask_accounting(self.calls, arrays)
        # An end has to be confirmed: what is requeued ends in accounting, and is in the queue again.
        plain = accounts is not None and all(
            out.missing is None and self._goes_on(accounts.get(out.job.scheduler or "")) for out in self._out.values()
        )
        ask = not plain or self._polls % QUEUE_EVERY == 0
        queue = ask_queue(self.calls, arrays) if ask else None
        self._polls += 1
        for out in list(self._out.values()):
            account = None if accounts is None else accounts.get(out.job.scheduler or "", SchedulerJob("UNKNOWN"))
            self._judge(out, account, queue)
        stubborn = [out for out in self._out.values() if out.cancelled and self._goes_on(out.seen)]
        if stubborn and queue is not None:
            self._scancel(stubborn)

    @staticmethod
    def _goes_on(seen: SchedulerJob | None) -> bool:
        return seen is not None and not seen.ended

    def _judge(self, out: SubmittedJob, account: SchedulerJob | None, queue: Mapping[str, SchedulerJob] | None) -> None:
        queued = None if queue is None else queue.get(out.job.scheduler or "")
        if queued is not None and not queued.ended:
            seconds = account.seconds if account is not None and not account.ended else 0
            out.seen, out.missing = replace(queued, seconds=seconds), None
        elif account is not None and account.ended:
            if queue is not None or account.state == "COMPLETED":
                self._settle(out, account)
        elif queued is not None:
            self._settle(out, queued, behind_s=0.0 if account is None or queued.state == "COMPLETED" else BEHIND_S)
        elif queue is not None:
            self._miss(out, account)
        elif account is not None:
            known = out.seen.reason if out.seen is not None and out.seen.state == account.state else ""
            out.seen = replace(account, reason=account.reason or known)  # why it waits only the queue says
        if out.seen is not None and out.seen.state == "RUNNING" and out.seen.seconds > self._config.fast_failure_s:
            self._nodes.worked(out.seen.node)

    def _settle(self, out: SubmittedJob, seen: SchedulerJob, behind_s: float = 0.0) -> None:
        """A job that the scheduler calls ended; its outcomes may take a moment to be seen from here."""
        now = time.monotonic()
        out.seen = seen
        if self._all_done(out):
            self._nodes.worked(seen.node)
            self._end(out, JobEnd(out.job.id, node=seen.node or None))
            return
        out.missing = out.missing or now
        until = out.missing + max(behind_s, self._config.grace_s)
        if now < until:
            self._recheck = min(self._recheck, until, now + RECHECK_S)
            return
        ended = self._why(out, seen)
        if ended.cause in (KILLED, NODE_FAILURE) and not out.cancelled:
            self._nodes.failed(seen.node, seen.seconds, ended.detail)
        self._end(out, ended)

    def _why(self, out: SubmittedJob, seen: SchedulerJob) -> JobEnd:
        code = seen.code.partition(":")[0]
        last = self._last_line(out.job.id)
        cause, stopped = ENDS[seen.state], None
        if cause == KILLED and code == str(EXIT_UNFINISHED):  # the worker left by itself, with a checkpoint
            cause = TIME_LIMIT if last.endswith(f"stops: {TIME_LIMIT}") else PREEMPTED
        elif cause == KILLED and code == str(EXIT_STOPPED):
            stopped = last.partition("stops: ")[2] or "the run folder cannot be written"
        return JobEnd(out.job.id, cause, describe_end(seen) if cause else "", seen.node or None, stopped)

    def _last_line(self, job: str) -> str:
        path = self._folder.jobs / f"{job}.log"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "stops: " in line), "")

    def _miss(self, out: SubmittedJob, account: SchedulerJob | None) -> None:
        """A job that is not in the queue, and of whose end accounting knows nothing (yet).

        Of what is cancelled before it ran there is never a record.
        """
        now = time.monotonic()
        out.missing = out.missing or now
        out.seen = account or SchedulerJob("UNKNOWN")
        until = out.missing + (self._config.grace_s if out.cancelled else self._config.lost_after_s)
        self._recheck = min(self._recheck, max(until, now + NAP_S)) if out.cancelled else self._recheck
        if now >= until:
            gone = f"SLURM job {out.job.scheduler} has been in no queue for {self._config.lost_after_s:.0f} s"
            self._end(out, JobEnd(out.job.id, KILLED, f"{gone}; accounting calls it {out.seen.state}"))

    # --- the rest ---

    def cancel(self, jobs: Collection[str]) -> None:
        for job_id in [job_id for job_id in self._submission.held if job_id in jobs]:
            del self._submission.held[job_id]
            self._ended.append(JobEnd(job_id, CANCELLED, "before it was submitted"))
        chosen = [out for job_id, out in self._out.items() if job_id in jobs]
        if not chosen:
            return
        for out in chosen:
            out.cancelled = True
        self._scancel(chosen)
        self._pause = self._config.poll_min_s
        self._next_poll = min(self._next_poll, time.monotonic() + min(1.0, self._pause))

    def _scancel(self, outs: Sequence[SubmittedJob]) -> None:
        """One call; what it does not reach is tried again at the next poll."""
        with contextlib.suppress(CallError):
            self.calls.run("scancel", *(str(out.job.scheduler) for out in outs))

    def close(self) -> None:
        """Notes what is still out."""
        self._write_states()

    def _write_states(self) -> None:
        states = {
            job_id: {
                "state": out.seen.state if out.seen else "SUBMITTED",
                "reason": out.seen.reason if out.seen else "",
                "node": out.seen.node if out.seen else "",
                "scheduler": out.job.scheduler,
            }
            for job_id, out in self._out.items()
        }
        why = self._submission.why_held or ("max_running" if self._config.max_running else "gathered")
        for job_id in self._submission.held:
            states[job_id] = {"state": "HELD", "reason": why, "node": "", "scheduler": None}
        values = {"jobs": states, "checked": time.time(), "excluded": self._nodes.excluded, "calls": self.calls.counts}
        write_json(self._folder.jobs / STATES_FILE, values)
        self._told = True


def _excluded(folder: RunFolder) -> dict[str, str]:
    """Nodes that an earlier driver excluded."""
    path = folder.jobs / STATES_FILE
    return dict(read_json(path).get("excluded", {})) if path.exists() else {}
