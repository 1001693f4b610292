"""The port that the driver submits jobs through. A launcher starts work and says when it ended."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.registry import Registry


@dataclass(frozen=True)
class Ended:
    """A job that its launcher no longer runs.

    Attributes:
        died: how its process died, if it did not come to its end: "killed by signal 9".
        stopped: why the machine would not let it go on, such as a full disk.
    """

    job: str
    died: str | None = None
    stopped: str | None = None


class Launcher(ABC):
    """Runs jobs of one run folder. What a job did is in the trial folders, never in here."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Jobs that run side by side."""

    @abstractmethod
    def submit(self, job: str) -> None:
        """Starts a job whose file is in jobs/. Called with a free slot only."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Ended]:
        """Jobs that have ended since the last call; waits for one, but no longer than the timeout."""

    @abstractmethod
    def close(self) -> None:
        """Ends all work now; jobs that run are cut off."""


@dataclass(kw_only=True)
class LauncherConfig(ABC):
    """Settings of one launcher."""

    name: str
    max_attempts: int = 5
    """Times that a trial's worker may die while training it, before the trial counts as failed."""

    @abstractmethod
    def check(self, place: str) -> None:
        """Raises ConfigError if a value breaks a rule."""

    @abstractmethod
    def num_slots(self, gpus: int) -> int:
        """Jobs that would run side by side on this machine."""

    @abstractmethod
    def num_threads(self) -> int:
        """Cores that one job computes with."""

    @abstractmethod
    def open(self, folder: Path, gpus: int) -> Launcher:
        """A launcher for one run folder.

        Args:
            gpus: devices that the runner can use; 0 means that it trains on the CPU.
        """


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LAUNCHERS: Registry[type[LauncherConfig]] = Registry("launcher", "hptransfer.sweep.launchers")
