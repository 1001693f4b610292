"""Local: persistent worker processes on this machine.

Each has its own GPUs or cores. A worker imports PyTorch once and reads one job after another from its standard input.
It runs in a session of its own, so that Ctrl-C reaches only the driver. If the driver is gone, a worker ends after its
current job.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.errors import EXIT_UNFINISHED, ConfigError
from hptransfer.core.records import CANCELLED, KILLED, OUT_OF_MEMORY, PREEMPTED, Job, Number
from hptransfer.launchers import LAUNCHERS, JobEnd, Launcher, LauncherConfig, check_stack_limit, num_cores

CLOSE_GRACE_S = 5.0
VMSTAT = Path("/proc/vmstat")


@LAUNCHERS.register("local")
@dataclass(kw_only=True)
class LocalConfig(LauncherConfig):
    """Settings of launcher=local."""

    name: str = "local"
    workers: int = 0
    """Worker processes; 0: GPUs divided by `gpus`, or cores divided by threads without a GPU. More workers slow each
    other down unless they wait for something else; a script may."""
    gpus: int = 1
    """GPUs visible to a worker, if the machine has any; a script under torchrun uses several."""
    threads: int = 1
    """Cores that a worker computes with. Several one-thread workers are faster than one with all cores."""

    def check(self, place: str) -> None:
        if self.workers < 0:
            raise ConfigError(f"{place}.workers must be at least 0 (0 chooses), got {self.workers}")
        if not 1 <= self.threads <= num_cores():
            raise ConfigError(f"{place}.threads must be 1 to {num_cores()} on this machine, got {self.threads}")
        if self.gpus < 1:
            raise ConfigError(f"{place}.gpus must be at least 1, got {self.gpus}")
        if self.max_attempts < 1:
            raise ConfigError(f"{place}.max_attempts must be at least 1, got {self.max_attempts}")
        if self.checkpoint_s < 1:
            raise ConfigError(f"{place}.checkpoint_s must be at least 1, got {self.checkpoint_s}; 300 is usual")
        check_stack_limit(self.stack, place)

    def note(self) -> str | None:
        threads = self.workers * self.threads
        if threads <= num_cores():
            return None
        return (
            f"launcher.workers x launcher.threads is {threads}, but this machine has {num_cores()} cores: workers that "
            "compute slow each other down; those that wait for something else, as a script's may, do not"
        )

    def check_jobs(self, jobs: Iterable[tuple[Job, Number | None]]) -> None:
        """Accept all jobs: nothing is requested from a scheduler."""

    def num_slots(self, gpus: int) -> int:
        return self.workers or gpus // self.gpus or max(1, 1 if gpus else num_cores() // self.threads)

    def num_devices(self, job: Job, tokens: Number | None, gpus: int) -> int:
        return min(self.gpus, gpus) or 1

    def num_threads(self) -> int:
        return self.threads

    def has_gpu(self, gpus: int) -> bool:
        return gpus > 0

    def open(self, folder: Path, gpus: int) -> Launcher:
        slots = self.num_slots(gpus)
        slot_gpus = assign_gpus(visible_gpus(gpus), self.gpus, slots)
        return LocalLauncher(folder, slot_gpus, threads=self.threads, checkpoint_s=self.checkpoint_s, stack=self.stack)


def visible_gpus(count: int) -> list[str]:
    """Return the names of the first `count` GPUs of this process."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (names or [str(index) for index in range(count)])[:count]


def assign_gpus(gpus: Sequence[str], size: int, slots: int) -> list[Sequence[str]]:
    """Assign `size` GPUs to every slot.

    Slots beyond the last group of GPUs share the groups again from the first.
    """
    groups = [gpus[start : start + size] for start in range(0, max(1, len(gpus) - size + 1), size)]
    return [groups[index % len(groups)] for index in range(slots)]


@dataclass
class WorkerSlot:
    """Slot of one worker, whose process is started with its first job.

    Attributes:
        oom_kills_before: number of processes that the kernel had killed for memory when the job was assigned.
        assigned: time of the assignment, on the monotonic clock.
    """

    gpus: Sequence[str]
    process: subprocess.Popen[str] | None = None
    job: str | None = None
    cancelled: bool = False
    oom_kills_before: int = 0
    assigned: float = 0.0


class LocalLauncher(Launcher):
    """Pool of workers.

    A worker that died is replaced at its slot's next job.
    """

    dedicated = True

    def __init__(
        self, folder: Path, slot_gpus: Sequence[Sequence[str]], *, threads: int, checkpoint_s: int, stack: int
    ) -> None:
        """Create the slots; no process is started yet.

        Args:
            slot_gpus: the GPUs that each slot's worker sees; empty if it trains on the CPU.
        """
        self._folder = folder
        self._threads = threads
        self._checkpoint_s = checkpoint_s
        self._stack = stack
        self._slots = [WorkerSlot(gpus=gpus) for gpus in slot_gpus]

    @property
    def slots(self) -> int:
        return len(self._slots)

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        for job in jobs:
            self._assign(job.id)
        return {}

    def _assign(self, job: str) -> None:
        slot = next(slot for slot in self._slots if slot.job is None)
        slot.job, slot.cancelled, slot.oom_kills_before = job, False, count_oom_kills()
        slot.assigned = time.monotonic()
        if slot.process is None:
            slot.process = self._start_worker(slot)
        assert slot.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died, which `wait` will report
            slot.process.stdin.write(f"{job}\n")
            slot.process.stdin.flush()

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        """Adopt none: workers of another driver are recognized by their leases."""
        return set()

    def wait(self, timeout_s: float) -> list[JobEnd]:
        busy = [slot for slot in self._slots if slot.job]
        if not busy:
            time.sleep(timeout_s)
            return []
        with selectors.DefaultSelector() as selector:
            for slot in busy:
                assert slot.process is not None
                assert slot.process.stdout is not None
                selector.register(slot.process.stdout, selectors.EVENT_READ, slot)
            return [self._job_end(key.data) for key, _ in selector.select(timeout_s)]

    def _job_end(self, slot: WorkerSlot) -> JobEnd:
        assert slot.process is not None
        assert slot.process.stdout is not None
        assert slot.job is not None
        job, slot.job = slot.job, None
        answer = slot.process.stdout.readline()
        if answer:
            stopped = answer.rstrip("\n").partition(" ")[2]
            return JobEnd(job, stopped=stopped or None)
        code = slot.process.wait()
        _close_pipes(slot.process)
        slot.process = None
        detail = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        cause = PREEMPTED if code == EXIT_UNFINISHED else KILLED
        if code == -signal.SIGKILL and count_oom_kills() > slot.oom_kills_before:
            cause, detail = OUT_OF_MEMORY, "this machine's memory was full"
        seconds = time.monotonic() - slot.assigned
        return JobEnd(job, CANCELLED if slot.cancelled else cause, detail, seconds=seconds)

    def cancel(self, jobs: Collection[str]) -> None:
        for slot in self._slots:
            if slot.job in jobs and slot.process is not None:
                slot.cancelled = True
                slot.process.terminate()

    def _start_worker(self, slot: WorkerSlot) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "HPTRANSFER_CHECKPOINT_S": str(self._checkpoint_s),
            "HPTRANSFER_STACK": str(self._stack),
        }
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self._threads)
        if slot.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
        return subprocess.Popen(
            [sys.executable, "-m", "hptransfer.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + CLOSE_GRACE_S
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_pipes(process)


def count_oom_kills() -> int:
    """Return the number of processes killed for memory since the kernel started.

    It is 0 where the kernel does not report it.
    """
    with contextlib.suppress(OSError):
        if match := re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(), flags=re.MULTILINE):
            return int(match[1])
    return 0


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # a line that the worker never read
            pipe.close()
