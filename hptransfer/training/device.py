"""Name and memory of the device that a process trains on."""

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
# Share of the free memory that a stack may use: allocators leave gaps, and other processes need some.
MEMORY_SHARE = 0.8
CGROUP_ROOT = Path("/sys/fs/cgroup")
# Text of torch's error for a full CPU memory, which has no type of its own.
CPU_OOM_TEXT = "DefaultCPUAllocator"


def device_name(device: str) -> str:
    """Return the name of the GPU or the processor.

    An example is "NVIDIA H100 80GB HBM3".
    """
    if device == CUDA:
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        if model := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE):
            return model[1]
    return platform.processor() or platform.machine()


def out_of_memory(work: Callable[[], object]) -> str | None:
    """Run work that may exceed the device's memory.

    Returns:
        torch's message if memory was exceeded, else None.
    """
    try:
        work()
        return None
    except RuntimeError as error:
        reason = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and CPU_OOM_TEXT not in reason:
            raise
    # Outside of the handler, which keeps every tensor of the work alive.
    torch.cuda.empty_cache()
    return reason


class Memory:
    """Forecast of the peak memory of ever larger stacks.

    Every trial of a stack needs the same memory.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._peaks: dict[int, float] = {}

    def expect(self, size: int) -> None:
        """Check memory before a stack of this size is built.

        Stacks of half and a quarter of its size must have been noted before, if there are any.

        Raises:
            MemoryError: the stack will not fit, judged by the smaller ones.
        """
        half, quarter = self._peaks.get(size // 2, 0.0), self._peaks.get(size // 4, 0.0)
        if quarter and half + 2 * (half - quarter) > _room(self._device):
            raise MemoryError(f"a stack of {size} trials would leave too little memory")
        _forget_peak(self._device)

    def note(self, size: int) -> None:
        """Record the peak of a stack of this size after freeing it."""
        self._peaks[size] = _peak(self._device)
        if self._device == CUDA:
            torch.cuda.empty_cache()


def _room(device: str) -> float:
    """Return the bytes that this process may use in all.

    They are those in use and most of its share of the free memory.
    """
    if device == CUDA:
        free, _ = torch.cuda.mem_get_info()
        allocated = torch.cuda.memory_allocated()
        return allocated + MEMORY_SHARE * (free + torch.cuda.memory_reserved() - allocated)
    try:
        return _process_bytes("VmRSS") + MEMORY_SHARE * _share_of_cores() * _available()
    except OSError:  # not Linux
        return math.inf


def _peak(device: str) -> float:
    """Return the peak bytes of this process since `_forget_peak`; 0 if unknown."""
    if device == CUDA:
        return torch.cuda.max_memory_allocated()
    try:
        return _process_bytes("VmHWM")
    except OSError:
        return 0.0


def _forget_peak(device: str) -> None:
    if device == CUDA:
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _process_bytes(key: str) -> int:
    """Return the bytes of an entry of /proc/self/status."""
    return _kibibytes(Path("/proc/self/status"), key)


def _kibibytes(path: Path, key: str) -> int:
    entry = re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), flags=re.MULTILINE)
    if entry is None:
        raise OSError(f"{path} has no {key}")
    return 1024 * int(entry[1])


def _share_of_cores() -> float:
    """Return this process's share of the cores.

    Workers divide a machine's memory as they divide its cores.
    """
    return min(1.0, torch.get_num_threads() / len(os.sched_getaffinity(0)))


def _available() -> int:
    """Return the free bytes of this machine and the job's control groups.

    A scheduler or a container sets limits on control groups.
    """
    available = [_kibibytes(Path("/proc/meminfo"), "MemAvailable")]
    job_group = CGROUP_ROOT / Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    for group in (job_group, *job_group.parents):
        with contextlib.suppress(OSError, ValueError):  # a missing file, and "max"
            limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            available.append(limit - used + int(stat["active_file"]) + int(stat["inactive_file"]))
    return max(0, min(available))
