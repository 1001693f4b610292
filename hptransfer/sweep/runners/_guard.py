"""Runs a command for as long as its worker lives: `python _guard.py LIFELINE COMMAND...`.

LIFELINE is the reading end of a pipe that the worker holds open. When the worker is gone, however that came about, the
whole process group ends at once, so that a script never goes on beside its next attempt. Ends as the command did.
The standard library alone, and little of it: it starts with every trial.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
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
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _watch(lifeline: int) -> None:
    if os.read(lifeline, 1) == b"":
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
