"""The device that a process trains on: what it is called, and whether its memory will do."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch

CUDA = "cuda"
# Of the memory that is free, what a stack may take: allocators leave gaps, and others want some too.
ROOM = 0.8
GROUPS = Path("/sys/fs/cgroup")
# How torch says that a CPU's memory did not do, in an error of no type of its own.
CPU_FULL = "DefaultCPUAllocator"


def device_name(device: str) -> str:
    """Such as "NVIDIA H100 80GB HBM3", or a processor's."""
    if device == CUDA:
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def out_of_memory(work: Callable[[], object]) -> str | None:
    """Does what may take more memory than the device has; returns why it did not do, if that was it."""
    try:
        work()
        return None
    except RuntimeError as error:
        reason = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and CPU_FULL not in reason:
            raise
    # Outside of the handler, which holds on to every tensor of the work.
    torch.cuda.empty_cache()
    return reason


class Memory:
    """What ever larger stacks take at their peak, and whether the next one fits: each trial takes the same."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._peaks: dict[int, float] = {}

    def expect(self, size: int) -> None:
        """Before a stack of this size is built; those of half and a quarter of it come before, if there are such.

        Raises:
            MemoryError: by what the smaller ones took it will not fit.
        """
        half, quarter = self._peaks.get(size // 2, 0.0), self._peaks.get(size // 4, 0.0)
        if quarter and half + 2 * (half - quarter) > _room(self._device):
            raise MemoryError(f"a stack of {size} trials would leave too little memory")
        _forget_peak(self._device)

    def note(self, size: int) -> None:
        """After it is gone."""
        self._peaks[size] = _peak(self._device)
        if self._device == CUDA:
            torch.cuda.empty_cache()


def _room(device: str) -> float:
    """Bytes that this process may come to hold: those that it has now, and most of its share of what is free."""
    if device == CUDA:
        free, _ = torch.cuda.mem_get_info()
        taken = torch.cuda.memory_allocated()
        return taken + ROOM * (free + torch.cuda.memory_reserved() - taken)
    try:
        return _own("VmRSS") + ROOM * _share_of_cores() * _available()
    except OSError:  # no Linux
        return math.inf


def _peak(device: str) -> float:
    """Most bytes that this process held since `_forget_peak`; 0 where nobody says."""
    if device == CUDA:
        return torch.cuda.max_memory_allocated()
    try:
        return _own("VmHWM")
    except OSError:
        return 0.0


def _forget_peak(device: str) -> None:
    if device == CUDA:
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _own(key: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    return _kibibytes(Path("/proc/self/status"), key)


def _kibibytes(path: Path, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), flags=re.MULTILINE)
    if found is None:
        raise OSError(f"{path} has no {key}")
    return 1024 * int(found[1])


def _share_of_cores() -> float:
    """As workers divide a machine's cores among them, they divide its memory."""
    return min(1.0, torch.get_num_threads() / len(os.sched_getaffinity(0)))


def _available() -> int:
    """Bytes that are left on this machine, and in the control groups that a scheduler or a container puts a job in."""
    left = [_kibibytes(Path("/proc/meminfo"), "MemAvailable")]
    own = GROUPS / Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    for group in (own, *own.parents):
        with contextlib.suppress(OSError, ValueError):  # no such file, and "max"
            limit, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left.append(limit - taken + int(stat["active_file"]) + int(stat["inactive_file"]))
    return max(0, min(left))
