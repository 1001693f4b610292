"""Runs a command for as long as its worker lives: `python _guard.py LIFELINE COMMAND...`.

LIFELINE is the reading end of a pipe that the worker holds open. When it lets go of it, or is gone, however that came
about, all that the command started ends at once, so that a script never goes on beside its next attempt; so does what
is left when the command has ended. Torchrun, for one, starts each process in a session of its own, which no signal to
the group reaches. Ends as the command did. The standard library alone, and little of it: it starts with every trial.
"""

# Without pathlib, whose import would be much of the time that this takes to start.
# ruff: noqa: PTH112, PTH123, PTH208

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
# A process that waits for a disk cannot be ended.
PATIENCE_S = 5.0


def main() -> None:
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":  # processes whose parent ends become this one's, not init's
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Signals to the group are the script's to act on; a handler, unlike SIG_IGN, is not inherited by it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"cannot start {command[0]!r} ({error.strerror})", flush=True)
        sys.exit(127)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    code = process.wait()
    _end_descendants()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _watch(lifeline: int) -> None:
    if os.read(lifeline, 1) == b"":
        _end_descendants()
        os.killpg(0, signal.SIGKILL)


def _end_descendants() -> None:
    """Ends all processes that came of the command, and those that they start meanwhile."""
    until = time.monotonic() + PATIENCE_S
    while (found := _descendants()) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _descendants() -> "set[int]":
    """Processes below this one that run; none where there is no /proc to look in."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{int(name)}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    new = children.get(os.getpid(), [])
    while new:
        found.update(new)
        new = [child for pid in new for child in children.get(pid, []) if child not in found]
    return found


if __name__ == "__main__":
    main()
