"""Inline: run jobs one after another in the driver's process.

This launcher is for debugging and for tests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.records import Job, Number
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import LAUNCHERS, JobEnd, Launcher, LauncherConfig, check_stack_limit, num_cores
from hptransfer.worker.job import run_job


@LAUNCHERS.register("inline")
@dataclass(kw_only=True)
class InlineConfig(LauncherConfig):
    """Settings of launcher=inline."""

    watches_trials = False

    name: str = "inline"

    def check(self, place: str) -> None:
        check_stack_limit(self.stack, place)

    def check_jobs(self, jobs: Iterable[tuple[Job, Number | None]]) -> None:
        """Accept all jobs: nothing is requested from a scheduler."""

    def num_slots(self, gpus: int) -> int:
        return 1

    def num_devices(self, job: Job, tokens: Number | None, gpus: int) -> int:
        return 1

    def num_threads(self) -> int:
        return num_cores()

    def has_gpu(self, gpus: int) -> bool:
        return gpus > 0

    def open(self, folder: Path, gpus: int) -> Launcher:
        return InlineLauncher(RunFolder(folder), self.checkpoint_s, self.stack)


class InlineLauncher(Launcher):
    """Launcher that runs the queued jobs inside `wait`."""

    slots = 1

    def __init__(self, folder: RunFolder, checkpoint_s: int, stack: int) -> None:
        self._folder, self._checkpoint_s, self._stack = folder, checkpoint_s, stack
        self._queue: list[str] = []

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        self._queue += [job.id for job in jobs]
        return {}

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        return set()

    def wait(self, timeout_s: float) -> list[JobEnd]:
        ended = []
        while self._queue:
            job = self._queue.pop(0)
            stopped = run_job(self._folder, job, checkpoint_s=self._checkpoint_s, stack=self._stack)
            ended.append(JobEnd(job, stopped=stopped))
        return ended

    def cancel(self, jobs: Collection[str]) -> None:
        """Drop these jobs from the queue.

        No job runs while the driver can call this.
        """
        self._queue = [job for job in self._queue if job not in jobs]

    def close(self) -> None:
        self._queue.clear()
