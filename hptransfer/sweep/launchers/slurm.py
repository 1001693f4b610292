"""SLURM: jobs in arrays by what they ask for, submitted by submitit; states by one sacct call for all of them.

What a job did is in the trial folders, and a job whose trials all have outcomes has ended whatever the scheduler says.
The scheduler is asked about the others, at intervals that grow while nothing changes.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hptransfer.core.errors import EXIT_STOPPED, EXIT_UNFINISHED, RunFolderError, StoppedError
from hptransfer.core.files import RunFolder, read_json, write_json
from hptransfer.core.records import CANCELLED, CAUSES, KILLED, Job, Number, Scale, digest
from hptransfer.sweep.launchers._base import LAUNCHERS, Ended, Launcher
from hptransfer.sweep.launchers._slurm_calls import CallError, Calls
from hptransfer.sweep.launchers._slurm_config import SlurmConfig
from hptransfer.sweep.launchers._slurm_limits import Limits, chunks, read_limits, shares, taken
from hptransfer.sweep.launchers._slurm_nodes import Nodes
from hptransfer.sweep.launchers._slurm_resources import Resources
from hptransfer.sweep.launchers._slurm_script import Form, array_script, interpreter, sweep_name
from hptransfer.sweep.launchers._slurm_states import ENDS, Seen, array_of, ask_accounting, ask_queue, how

LAUNCHERS.register("slurm")(SlurmConfig)

LOOK_S = 1.0
"""Seconds between two looks at the outcomes of the jobs that are out."""
NAP_S = 0.1
BEHIND_S, RECHECK_S = 10.0, 3.0
"""Accounting, which alone knows the exit code, may be so many seconds behind the queue; it is asked again that soon."""
QUEUE_EVERY = 4
"""Every so many polls the queue is asked too: why jobs wait, and whether accounting calls running what is gone."""
GROWTH = 1.5

# What sbatch says when it would take the same script later.
LATER = re.compile(
    r"submit ?(job)?s? ?limit|job violates accounting/qos policy|timed out|timeout|unable to contact|"
    r"connection refused|connection reset|zero bytes|temporarily|try again|did not answer|communication|"
    r"controller|transport|at the max job count",
    re.IGNORECASE,
)
# Of those, what leaves open whether the script was taken.
UNSURE = re.compile(r"timed out|timeout|zero bytes|connection reset|did not answer|communication|transport", re.I)


@dataclass
class Out:
    """A job that was submitted and has not been reported as ended."""

    job: Job
    done: int = 0
    """Trials at its beginning whose outcomes were seen."""
    finished: float | None = None
    """When the outcome of the last one was seen."""
    missing: float | None = None
    """Since when no record of it has been found."""
    seen: Seen | None = None
    cancelled: bool = False


class Slurm(Launcher):
    """The jobs of one run folder on a cluster. They go on without it."""

    def __init__(self, folder: RunFolder, config: SlurmConfig) -> None:
        self._folder, self._config = folder, config
        self.calls = Calls()
        self._limits: Limits | None = None
        self._nodes = Nodes(config.fast_failure_s, config.exclude_after, config.max_excluded, _excluded(folder))
        self._out: dict[str, Out] = {}
        self._held: dict[str, Job] = {}
        self._why_held = ""
        self._share: dict[str, int] = {}
        self._ended: list[Ended] = []
        self._tokens: dict[Scale, Number | None] = {}
        self._polls = 0
        self._pause = config.poll_min_s
        self._next_poll = self._next_look = time.monotonic()
        self._recheck = math.inf
        self._unsure = False

    @property
    def slots(self) -> int:
        submit = self._known_limits().submit
        return self._config.max_jobs if submit is None else max(1, min(submit, self._config.max_jobs))

    def _known_limits(self) -> Limits:
        if self._limits is None:
            self._limits = read_limits(self.calls, self._config.named("account"), self._config.named("qos"))
        return self._limits

    # --- submission ---

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """What is refused for now stays here and is submitted later; its file is then written anew.

        Raises:
            StoppedError: the scheduler refuses the jobs for good, such as for a partition that there is not.
            ConfigError: a rule has no value for one of them.
        """
        self._held |= {job.id: job for job in jobs}
        return self._submit_held()

    def _submit_held(self) -> dict[str, str]:
        classes: dict[Resources, list[Job]] = defaultdict(list)
        for job in self._held.values():
            classes[self._config.resources(job, self._known_tokens(job))].append(job)
        numbers: dict[str, str] = {}
        for resources, jobs in classes.items():
            parts = chunks(jobs, self._known_limits().array)
            for part, share in zip(parts, shares(self._room(), [len(part) for part in parts]), strict=True):
                if share:
                    numbers |= self._submit_part(part, resources, share)
        if numbers:
            self._hurry()
        return numbers

    def _room(self) -> int:
        """Jobs that may run beside what may run already."""
        if not self._config.max_running:
            return len(self._held)
        open_jobs: dict[str, int] = defaultdict(int)
        for out in self._out.values():
            open_jobs[array_of(out.job.scheduler or "")] += 1
        running = taken((self._share.get(array, count), count) for array, count in open_jobs.items())
        return max(0, self._config.max_running - running)

    def _submit_part(self, jobs: Sequence[Job], resources: Resources, share: int) -> dict[str, str]:
        """Submits an array; less of it while that goes against a limit."""
        from hptransfer.sweep.launchers._slurm_submit import submit

        if self._unsure and not self._cancel_strangers(sweep_name(self._folder)):
            return {}
        form = script_form(self._config, self._folder)
        keep = self._folder.jobs / f"last-{digest(str(resources))[:6]}.sh"
        while jobs:
            text = array_script(form, self._folder, jobs, resources, share=share, exclude=sorted(self._nodes.excluded))
            try:
                array = submit(self.calls, text, keep)
            except CallError as error:
                self._why_held = str(error)
                if not LATER.search(self._why_held):
                    raise StoppedError(
                        f"stopped: sbatch refused a job ({self._why_held}); correct the settings under launcher, "
                        f"then run the same command again (the script is what --dry-run prints)"
                    ) from None
                self._unsure = bool(UNSURE.search(self._why_held))
                if "limit" not in self._why_held.lower() and "policy" not in self._why_held.lower():
                    return {}
                jobs = jobs[: len(jobs) // 2]
                continue
            self._share[array] = min(share, len(jobs))
            return {job.id: self._take(job, f"{array}_{index}") for index, job in enumerate(jobs)}
        return {}

    def _take(self, job: Job, number: str) -> str:
        del self._held[job.id]
        self._out[job.id] = Out(replace(job, scheduler=number))
        return number

    def _known_tokens(self, job: Job) -> Number | None:
        """Training tokens of a trial, for rules: an axis of the scale, or in the run itself."""
        if job.scale not in self._tokens:
            run = {} if "tokens" in job.scale.axes else self._folder.read_trial(job.trials[0]).run
            tokens = run.get("tokens")
            self._tokens[job.scale] = tokens if isinstance(tokens, Number) else None
        return self._tokens[job.scale]

    # --- what an earlier driver, or an answer that was lost, left in the queue ---

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        """All that have a number; `wait` soon tells which of them ended meanwhile, and by what cause."""
        known = {job.id: Out(job) for job in jobs if job.scheduler is not None}
        self._out |= known
        self._unsure = not self._cancel_strangers(sweep_name(self._folder))
        self._hurry(at_once=True)
        return set(known)

    def _cancel_strangers(self, name: str) -> bool:
        """Cancels jobs of the sweep's name whose numbers nobody wrote down; False if that cannot be done now.

        Their driver ended, or sbatch's answer was lost, between submission and note. Their jobs are submitted again.
        """
        try:
            text = self.calls.run("squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%i")
            strangers = set(text.split()) - {out.job.scheduler for out in self._out.values()}
            if strangers:
                strangers -= self._written_numbers()
            if strangers:
                self.calls.run("scancel", *sorted(strangers))
        except CallError:
            return False
        self._unsure = False
        return True

    def _written_numbers(self) -> set[str]:
        numbers = set()
        for path in self._folder.jobs.glob("*.json"):
            if path.suffixes == [".json"] and path.name != STATES:
                with contextlib.suppress(RunFolderError):
                    numbers.add(str(read_json(path).get("scheduler")))
        return numbers

    # --- ends ---

    def wait(self, timeout_s: float) -> list[Ended]:
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
                self._end(out, Ended(out.job.id, node=out.seen.node if out.seen else None))

    def _all_done(self, out: Out) -> bool:
        trials = out.job.trials
        while out.done < len(trials) and self._folder.outcome_path(trials[out.done]).exists():
            out.done += 1
        return out.done == len(trials)

    def _end(self, out: Out, ended: Ended) -> None:
        del self._out[out.job.id]
        self._ended.append(replace(ended, cause=CANCELLED) if out.cancelled and ended.cause else ended)
        array = array_of(out.job.scheduler or "")
        if not any(array_of(other.job.scheduler or "") == array for other in self._out.values()):
            self._share.pop(array, None)
        if self._held and self._config.max_running:
            self._hurry()

    def _poll(self) -> None:
        """Asks the scheduler about all jobs at once, and notes what it says."""
        self._recheck = math.inf
        before = {job: out.seen and out.seen.state for job, out in self._out.items()}
        if self._held:
            for job_id, number in self._submit_held().items():
                self._folder.write_job(self._out[job_id].job)
                assert self._out[job_id].job.scheduler == number
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
            account = None if accounts is None else accounts.get(out.job.scheduler or "", Seen("UNKNOWN"))
            self._judge(out, account, queue)
        stubborn = [o for o in self._out.values() if o.cancelled and not (o.seen and o.seen.state == "COMPLETING")]
        if stubborn and queue is not None:
            self._scancel(stubborn)

    @staticmethod
    def _goes_on(seen: Seen | None) -> bool:
        return seen is not None and not seen.ended

    def _judge(self, out: Out, account: Seen | None, queue: Mapping[str, Seen] | None) -> None:
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
            out.seen = account
        if out.seen is not None and out.seen.state == "RUNNING" and out.seen.seconds > self._config.fast_failure_s:
            self._nodes.worked(out.seen.node)

    def _settle(self, out: Out, seen: Seen, behind_s: float = 0.0) -> None:
        """A job that the scheduler calls ended; its outcomes may take a moment to be seen from here."""
        now = time.monotonic()
        out.seen = seen
        if self._all_done(out):
            self._nodes.worked(seen.node)
            self._end(out, Ended(out.job.id, node=seen.node or None))
            return
        out.missing = out.missing or now
        until = out.missing + max(behind_s, self._config.grace_s)
        if now < until:
            self._recheck = min(self._recheck, until, now + RECHECK_S)
            return
        ended = self._why(out, seen)
        if ended.cause not in (None, CANCELLED) and not out.cancelled:
            self._nodes.failed(seen.node, seen.seconds, ended.detail)
        self._end(out, ended)

    def _why(self, out: Out, seen: Seen) -> Ended:
        code = seen.code.partition(":")[0]
        last = self._last_line(out.job.id)
        cause, stopped = ENDS[seen.state], None
        if cause == KILLED and code == str(EXIT_UNFINISHED):  # the worker says why it left
            cause = next((cause for cause in CAUSES if last.endswith(f"stops: {cause}")), KILLED)
        elif cause == KILLED and code == str(EXIT_STOPPED):
            stopped = last.partition("stops: ")[2] or "the run folder cannot be written"
        return Ended(out.job.id, cause, how(seen) if cause else "", seen.node or None, stopped)

    def _last_line(self, job: str) -> str:
        path = self._folder.jobs / f"{job}.log"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "stops: " in line), "")

    def _miss(self, out: Out, account: Seen | None) -> None:
        """A job that is not in the queue, and of whose end accounting knows nothing (yet)."""
        now = time.monotonic()
        out.missing = out.missing or now
        out.seen = account or Seen("UNKNOWN")
        if now >= out.missing + self._config.lost_after_s:
            gone = f"SLURM job {out.job.scheduler} has been in no queue for {self._config.lost_after_s:.0f} s"
            self._end(out, Ended(out.job.id, KILLED, f"{gone}; accounting calls it {out.seen.state}"))

    # --- the rest ---

    def cancel(self, jobs: Collection[str]) -> None:
        for job_id in [job_id for job_id in self._held if job_id in jobs]:
            del self._held[job_id]
            self._ended.append(Ended(job_id, CANCELLED, "before it was submitted"))
        chosen = [out for job_id, out in self._out.items() if job_id in jobs]
        if not chosen:
            return
        for out in chosen:
            out.cancelled = True
        self._scancel(chosen)
        self._pause = self._config.poll_min_s
        self._next_poll = min(self._next_poll, time.monotonic() + min(1.0, self._pause))

    def _scancel(self, outs: Sequence[Out]) -> None:
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
        for job_id in self._held:
            states[job_id] = {"state": "HELD", "reason": self._why_held or "max_running", "node": "", "scheduler": None}
        values = {"jobs": states, "checked": time.time(), "excluded": self._nodes.excluded, "calls": self.calls.counts}
        write_json(self._folder.jobs / STATES, values)


STATES = "states.json"


def script_form(config: SlurmConfig, folder: RunFolder) -> Form:
    """What all scripts of a run folder have in common."""
    return Form(
        name=sweep_name(folder),
        flags=config.flags,
        setup=config.setup,
        python=interpreter(config.python),
        wrapper=config.wrapper,
        signal_s=config.signal_s,
    )


def _excluded(folder: RunFolder) -> dict[str, str]:
    """Nodes that an earlier driver excluded."""
    path = folder.jobs / STATES
    return dict(read_json(path).get("excluded", {})) if path.exists() else {}
