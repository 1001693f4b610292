"""Port through which the driver submits jobs.

A launcher starts jobs and reports when they end.
"""

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
    """Report of a job that its launcher no longer runs.

    Attributes:
        cause: one of records.CAUSES if the job was cut off; None if it ran to its end, however its trials ended.
        detail: one line, such as "killed by signal 9"; empty if the job ran to its end.
        node: where the job ran, if that is known.
        stopped: why the machine made the job stop, such as a full disk.
        seconds: time that it ran, by one clock; None if the launcher does not know it. An attempt without an outcome
            costs this much of the budget. If it is None, only one on the driver's own machine costs any.
    """

    job: str
    cause: str | None = None
    detail: str = ""
    node: str | None = None
    stopped: str | None = None
    seconds: float | None = None


class Launcher(ABC):
    """Base class of launchers: run the jobs of one run folder.

    The results of a job are in the trial folders, never in the launcher.

    Attributes:
        dedicated: true if the slots are devices that idle without a job; a scheduler's slots are shared with other
            users.
    """

    dedicated: ClassVar[bool] = False

    @property
    @abstractmethod
    def slots(self) -> int:
        """Largest number of jobs that may be submitted and unfinished."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Start jobs, at most one per free slot.

        Their files are in jobs/.

        Returns:
            The scheduler's id of each submitted job, by job id; empty where there is no scheduler.
        """

    @abstractmethod
    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        """Adopt jobs that an earlier driver submitted.

        Returns:
            Ids of the jobs that are running, waiting or possibly so. The others have ended.
        """

    @abstractmethod
    def wait(self, timeout_s: float) -> list[JobEnd]:
        """Return the jobs that ended since the last call.

        If there are none, wait for one until the timeout.
        """

    @abstractmethod
    def cancel(self, jobs: Collection[str]) -> None:
        """End these jobs, running or waiting; `wait` reports them as CANCELLED."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources.

        On this machine running jobs are cut off. Jobs of a scheduler continue without a driver.
        """


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
    """Number of times that a trial's worker may die while training it, before the trial counts as failed."""
    checkpoint_s: int = 300
    """Seconds between two periodic checkpoints of trials in training. Signals and time limits cause further ones."""
    stack: int = 0
    """Largest number of a job's trials that train as one model; 0: the fastest number by a short measurement on the
    job's device. It changes losses by rounding alone; a fixed number splits a job alike on every machine."""

    @abstractmethod
    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""

    def note(self) -> str | None:
        """Return a remark on these settings for the user, or None."""
        return None

    @abstractmethod
    def check_jobs(self, jobs: Iterable[tuple[Job, Number | None]]) -> None:
        """Raise ConfigError for the first job that cannot be requested.

        Args:
            jobs: jobs of every scale, with the tokens of a trial. A launcher without resource requests does not
                iterate over them, because computing what a job costs takes time.
        """

    @abstractmethod
    def num_slots(self, gpus: int) -> int:
        """Return the number of jobs that would run concurrently from this machine."""

    @abstractmethod
    def num_devices(self, job: Job, tokens: Number | None, gpus: int) -> int:
        """Return the number of devices that a job occupies.

        These are its GPUs, or 1 without any.

        Args:
            tokens: training tokens of one of its trials.
            gpus: number of GPUs of this machine.
        """

    @abstractmethod
    def num_threads(self) -> int:
        """Return the number of cores that one job computes with."""

    @abstractmethod
    def has_gpu(self, gpus: int) -> bool:
        """Test if a job has a GPU.

        Args:
            gpus: number of GPUs of this machine.
        """

    @abstractmethod
    def open(self, folder: Path, gpus: int) -> Launcher:
        """Open a launcher for one run folder.

        Args:
            gpus: number of devices that the runner can use; 0 if it trains on the CPU.
        """


def check_stack_limit(stack: int, place: str) -> None:
    """Raise ConfigError for a negative number of trials."""
    if stack < 0:
        raise ConfigError(
            f"{place}.stack must be at least 0, got {stack}; 0 measures how many trials train best as one"
        )


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LAUNCHERS: Registry[type[LauncherConfig]] = Registry("launcher", "hptransfer.launchers")
