"""The port that the driver submits jobs through. A launcher starts work and says when it ended."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hptransfer.core.errors import ConfigError
from hptransfer.core.records import Job, Number
from hptransfer.core.registry import Registry


@dataclass(frozen=True)
class JobEnd:
    """A job that its launcher no longer runs.

    Attributes:
        cause: one of records.CAUSES if it did not come to its end; None if it did, however its trials ended.
        detail: one line, such as "killed by signal 9"; empty if it came to its end.
        node: where it ran, if that is known.
        stopped: why the machine would not let it go on, such as a full disk.
    """

    job: str
    cause: str | None = None
    detail: str = ""
    node: str | None = None
    stopped: str | None = None


class Launcher(ABC):
    """Runs jobs of one run folder. What a job did is in the trial folders, never in here.

    Attributes:
        dedicated: whether its slots are devices that idle without a job; those of a scheduler others use.
    """

    dedicated: ClassVar[bool] = False

    @property
    @abstractmethod
    def slots(self) -> int:
        """Jobs that may be submitted and not ended at a time."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Starts jobs whose files are in jobs/, no more than there are free slots.

        Returns:
            What the scheduler calls each of them, by job id; empty where there is no scheduler.
        """

    @abstractmethod
    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        """Takes up jobs that an earlier driver submitted. Ids of those that run, wait or may do so; the rest ended."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[JobEnd]:
        """Jobs that have ended since the last call; waits for one, but no longer than the timeout."""

    @abstractmethod
    def cancel(self, jobs: Collection[str]) -> None:
        """Ends these jobs, whether they run or wait; `wait` reports them as CANCELLED."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of everything. On this machine that cuts jobs off; a scheduler's jobs go on without a driver."""


@dataclass(kw_only=True)
class LauncherConfig(ABC):
    """Settings of one launcher.

    Attributes:
        is_cluster: jobs run on a cluster's nodes, and a driver may be a job itself.
        watches_trials: the driver can look at trials while they train.
    """

    is_cluster: ClassVar[bool] = False
    watches_trials: ClassVar[bool] = True

    name: str
    max_attempts: int = 5
    """Times that a trial's worker may die while training it, before the trial counts as failed."""
    checkpoint_s: int = 300
    """Seconds between two checkpoints of trials in training, beside those that a signal or a time limit asks for."""
    stack: int = 0
    """Trials of a job that train as one model, at most; 0: as many as a short measurement on the job's device finds
    fastest. No loss hangs on it beyond rounding; a number splits a job alike on every machine."""

    @abstractmethod
    def check(self, place: str) -> None:
        """Raises ConfigError if a value breaks a rule."""

    def note(self) -> str | None:
        """What who asks for it should know."""
        return None

    @abstractmethod
    def check_jobs(self, jobs: Iterable[tuple[Job, Number | None]]) -> None:
        """Raises ConfigError for the first job that could not be asked for.

        Args:
            jobs: of every scale, with the tokens of a trial. A launcher that asks nobody for anything looks at none:
                what a job costs takes time to find out.
        """

    @abstractmethod
    def num_slots(self, gpus: int) -> int:
        """Jobs that would run side by side on this machine."""

    @abstractmethod
    def num_devices(self, job: Job, tokens: Number | None, gpus: int) -> int:
        """What a job holds while it runs: GPUs, or 1 where it has none.

        Args:
            tokens: of one of its trials.
            gpus: of this machine.
        """

    @abstractmethod
    def num_threads(self) -> int:
        """Cores that one job computes with."""

    @abstractmethod
    def has_gpu(self, gpus: int) -> bool:
        """Whether a job has a GPU, where this machine has so many."""

    @abstractmethod
    def open(self, folder: Path, gpus: int) -> Launcher:
        """A launcher for one run folder.

        Args:
            gpus: devices that the runner can use; 0 means that it trains on the CPU.
        """


def check_stack(stack: int, place: str) -> None:
    """Raises ConfigError if it is no number of trials."""
    if stack < 0:
        raise ConfigError(
            f"{place}.stack must be at least 0, got {stack}; 0 measures how many trials train best as one"
        )


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LAUNCHERS: Registry[type[LauncherConfig]] = Registry("launcher", "hptransfer.launchers")
