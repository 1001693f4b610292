"""Waiting for what other processes do: it ends by progress, not by the clock.

On a machine that is shared a test may take many times as long as on an idle one. So a wait gives up only if nothing
has moved for a long time; the limit that pytest sets for a whole test ends what moves without getting anywhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 90.0
"""Without any progress, before a wait gives up."""
LOOK_S = 0.5
"""Between two looks at the progress."""
PAUSE_S = 0.02
"""Between two questions."""


def processor_time() -> float:
    """Clock ticks that this process's descendants have used, those that ended and were waited for included."""
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
    total, waiting = sum(os.times()[2:4]), list(parents.get(os.getpid(), ()))
    while waiting:
        pid = waiting.pop()
        total += used[pid]
        waiting += parents.get(pid, ())
    return total


def files(folder: Path) -> Callable[[], object]:
    """Progress of a process that is not a descendant: names, sizes and times of the files it writes."""

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


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    progress: Callable[[], object] = processor_time,
    patience_s: float = PATIENCE_S,
    pause_s: float = PAUSE_S,
) -> None:
    """Returns once the condition holds.

    Args:
        what: is waited for, for the message.
        progress: any value that changes as long as there is hope.
        patience_s: without a change of it, after which the wait fails.
    """
    seen, since, look = progress(), time.monotonic(), 0.0
    while not condition():
        now = time.monotonic()
        if now - look > LOOK_S:
            look, before, seen = now, seen, progress()
            since = since if seen == before else now
        assert now - since < patience_s, f"no progress for {patience_s:g} s while waiting for {what}"
        time.sleep(pause_s)
