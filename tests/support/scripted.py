"""A launcher that plays a script: what becomes of each attempt at a job is said beforehand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from hptransfer.config.sweep import SweepConfig
from hptransfer.core.io import append_jsonl, write_json
from hptransfer.core.records import CANCELLED, DONE, Job, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.summary import DriverSummary
from hptransfer.launchers import JobEnd, Launcher, LauncherConfig
from hptransfer.launchers.inline import InlineConfig
from hptransfer.launchers.local import LocalConfig
from hptransfer.planning.plan import make_plan
from hptransfer.planning.trial_set import TrialSet
from hptransfer.session.session import session

# What becomes of an attempt: how it ended, or None if it goes on for ever.
Fate = Callable[[RunFolder, Job], JobEnd | None]


def train(folder: RunFolder, job: Job) -> JobEnd:
    """A job that comes to its end with a finished trial each."""
    for trial_id in job.trials:
        if not folder.outcome_path(trial_id).exists():
            outcome = Outcome(state=DONE, loss=3.0 + folder.read_trial(trial_id).tuned["lr"], loss_se=0.1, seconds=1.0)
            write_json(folder.outcome_path(trial_id), outcome.to_json())
    return JobEnd(job.id)


def advance(folder: RunFolder, job: Job, step: int) -> None:
    """Adds a point to the curve of every trial of a job."""
    for trial_id in job.trials:
        append_jsonl(folder.curve_path(trial_id), [{"step": step, "tokens": step, "loss": 3.0, "time": 0.0}])


@dataclass
class Scripted(Launcher):
    """Attributes:
    fate: of every attempt.
    slots: jobs at a time.
    submitted: every attempt, in order.
    running: jobs that have not ended.
    """

    fate: Fate = train
    slots: int = 2  # type: ignore[assignment]
    folder: RunFolder = field(default_factory=lambda: RunFolder(Path()))
    calls: list[list[Job]] = field(default_factory=list)
    running: dict[str, Job] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    closed: int = 0

    @property
    def submitted(self) -> list[Job]:
        return [job for call in self.calls for job in call]

    def attempts(self, job: str) -> list[int]:
        return [other.attempt for other in self.submitted if other.id == job]

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        assert len(self.running) + len(jobs) <= self.slots
        for job in jobs:
            assert self.folder.read_job(job.id) == job
            assert job.id not in self.running
        self.calls.append(list(jobs))
        self.running |= {job.id: job for job in jobs}
        return {job.id: f"{100 + len(self.calls)}_{index}" for index, job in enumerate(jobs)}

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        return {job.id for job in jobs} & set(self.running)

    def wait(self, timeout_s: float) -> list[JobEnd]:
        found = []
        for job in list(self.running.values()):
            ended = JobEnd(job.id, CANCELLED) if job.id in self.cancelled else self.fate(self.folder, job)
            if ended is not None:
                found.append(ended)
                del self.running[job.id]
                self.cancelled.discard(job.id)
        return found

    def cancel(self, jobs: Collection[str]) -> None:
        assert set(jobs) <= set(self.running)
        self.cancelled |= set(jobs)

    def close(self) -> None:
        self.closed += 1


@contextmanager
def playing(launcher: Scripted) -> Iterator[None]:
    """Makes it the launcher of every sweep with launcher=inline, or local."""

    def open_it(config: LauncherConfig, folder: Path, gpus: int) -> Launcher:
        launcher.folder = RunFolder(folder)
        return launcher

    with pytest.MonkeyPatch.context() as patch:
        for kind in (InlineConfig, LocalConfig):
            patch.setattr(kind, "open", open_it)
        yield


def drive(config: SweepConfig, launcher: Scripted) -> DriverSummary:
    """Runs a sweep on a scripted launcher."""
    plan = make_plan(config)
    with playing(launcher), session(plan, Console(quiet=True)) as open_session:
        return open_session.train(TrialSet.sweep(plan))
