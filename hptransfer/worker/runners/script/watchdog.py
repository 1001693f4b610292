"""Watchdog of a script: `python watchdog.py LIFELINE COMMAND...`.

It runs a command for as long as its worker lives. LIFELINE is the reading end of a pipe that the worker holds open.
When the worker closes it or is gone for any reason, all processes that the command started are killed at once. A script
therefore never runs concurrently with its next attempt. Processes that remain when the command has ended are killed
too. Torchrun starts each process in a session of its own, which no signal to the group reaches. The watchdog ends with
the status of the command. It imports little of the standard library and nothing else, because it starts with every
trial.
"""

# The import of pathlib would dominate the start-up time.
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
# Time limit for killing processes: one that waits for a disk cannot be killed.
END_TIMEOUT_S = 5.0


def main() -> None:
    """Run the command of the arguments and kill its descendants."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":  # orphaned processes become children of this one, not of init
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Only the script acts on signals to the group. Unlike SIG_IGN, a handler is not inherited by it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"cannot start {command[0]!r} ({error.strerror})", flush=True)
        sys.exit(127)
    threading.Thread(target=_watch_lifeline, args=(lifeline,), daemon=True).start()
    code = process.wait()
    _kill_descendants()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _watch_lifeline(lifeline: int) -> None:
    if os.read(lifeline, 1) == b"":
        _kill_descendants()
        os.killpg(0, signal.SIGKILL)


def _kill_descendants() -> None:
    """Kill all processes that the command started, including new ones."""
    until = time.monotonic() + END_TIMEOUT_S
    while (running := _descendants()) and time.monotonic() < until:
        for pid in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _descendants() -> "set[int]":
    """Return the running descendants of this process; none without /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{int(name)}/stat", encoding="utf-8", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(name))
    descendants: set[int] = set()
    new = children.get(os.getpid(), [])
    while new:
        descendants.update(new)
        new = [child for pid in new for child in children.get(pid, []) if child not in descendants]
    return descendants


if __name__ == "__main__":
    main()
