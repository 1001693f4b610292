"""Waiting for what other processes do: it ends by progress, not by the clock.

On a machine that is shared a test may take many times as long as on an idle one. So a wait gives up only if nothing
has moved for a long time, or if the process it waits for has ended. The limit that pytest sets for a whole test ends
what moves without getting anywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE_S = 240.0
"""Without any progress, before a wait gives up."""
LOOK_S = 0.5
"""Between two looks at the progress."""
PAUSE_S = 0.02
"""Between two questions."""


def processor_time(*others: int) -> float:
    """Clock ticks of this process's descendants.

    Those that ended and were waited for are included.

    Args:
        others: further processes, counted with their descendants.
    """
    parents: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(entry.parent.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        used[pid] = sum(map(int, fields[11:15]))
    total, waiting = sum(os.times()[2:4]), [*parents.get(os.getpid(), ()), *others]
    while waiting:
        pid = waiting.pop()
        total += used.get(pid, 0)
        waiting += parents.get(pid, ())
    return total


def files(folder: Path) -> Callable[[], object]:
    """Names, sizes and times of files: the progress of what writes them."""

    def progress() -> object:
        found = {}
        for path in folder.rglob("*"):
            try:
                state = path.stat()
            except OSError:
                continue
            found[path] = (state.st_size, state.st_mtime_ns)
        return found

    return progress


def alive(pid: int) -> bool:
    """Test if a process runs: one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    process: subprocess.Popen[Any] | None = None,
    progress: Callable[[], object] = processor_time,
    pause_s: float = PAUSE_S,
) -> None:
    """Return once the condition holds.

    Args:
        what: is waited for, for the message.
        process: without which the condition cannot come to hold; its end ends the wait.
        progress: any value that changes as long as there is hope.
    """
    seen, since, look = progress(), time.monotonic(), 0.0
    while not condition():
        if process is not None and process.poll() is not None:
            assert condition(), f"the process ended with {process.returncode} while waiting for {what}"
            return
        now = time.monotonic()
        if now - look > LOOK_S:
            look, before, seen = now, seen, progress()
            since = since if seen == before else now
        assert now - since < PATIENCE_S, f"no progress for {PATIENCE_S:g} s while waiting for {what}"
        time.sleep(pause_s)


class Process(subprocess.Popen[Any]):
    """A process that does not outlive its block.

    If it still runs at the end, as after a failed check, it is killed; its pipes are closed.
    """

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(kind, value, traceback)


def kill(pids: Iterable[int]) -> None:
    """Kill processes of this machine; some may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
