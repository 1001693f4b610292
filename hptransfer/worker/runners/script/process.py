"""A script that runs: its output goes to the job's log as it comes, and nothing of it outlives its worker."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hptransfer.core.records import CODE_ERROR, KILLED, OUT_OF_MEMORY
from hptransfer.worker.runners.script import watchdog as _guard

# Torchrun says sixty lines of its own after the lines of what failed, on every node.
KEPT_LINES = 400
CHUNK = 65536
# Output that a grandchild still holds open after the script's end is not waited for.
LAST_OUTPUT_S = 2.0
MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|^MemoryError|std::bad_alloc|oom[-_ ]kill|Cannot allocate memory|ENOMEM",
    re.IGNORECASE,
)


# The last line of an exception's traceback, with the rank that torch puts in front; not those of torchrun itself.
RAISED = re.compile(r"(?:\[rank\d+\]:\s*)?(?!.*\b(?:ChildFailed|Signal)\w*\b)(?:\w+\.)*\w*(?:Error|Exception)(?::|$)")
# Lines that say no more than that something ended.
WRAPPING = re.compile(r"[=\-*\s]+$|srun: |slurmstepd: |\[\d\]:$|<NO_OTHER_FAILURES>")


def ended_by(code: int) -> int:
    """The signal that ended a process, by its exit code or, as shells and launchers put it, 128 more; 0 if none did."""
    return -code if code < 0 else code - 128 if code > 128 else 0


class Process:
    """One run of a script, in a session of its own (see `start`)."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: int) -> None:
        """
        Args:
            lifeline: while it is open, the script may run.
        """
        self._popen, self._lifeline = popen, lifeline
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, minus the signal's number if one ended it; None if it runs on after the time."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(LAST_OUTPUT_S)
        return code

    def new_lines(self) -> Iterator[str]:
        """What it printed since the last call, line by line."""
        while not self._lines.empty():
            yield self._lines.get()

    def stop(self, grace_s: float) -> None:
        """Asks its whole group to end, and after the grace makes it."""
        self._signal(signal.SIGTERM)
        if self.wait(grace_s) is None:
            self.kill()

    def kill(self) -> None:
        """Ends it, and whatever processes it left behind."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(2 * _guard.PATIENCE_S)
        self._signal(signal.SIGKILL)
        self._popen.wait()
        self._reader.join(LAST_OUTPUT_S)

    def failure(self, code: int) -> tuple[str, str]:
        """One line on how it ended, and which of records.CAUSES that is.

        A script of several processes is ended as a whole when one of them fails: its exception is the reason then.
        """
        lines = [line.strip() for line in self._last if line.strip()]
        raised = next((line for line in reversed(lines) if RAISED.match(line)), None)
        telling = raised or next((line for line in reversed(lines) if not WRAPPING.match(line)), None)
        said = f": {telling[:300]}" if telling else ""
        killer = ended_by(code)
        how = f"killed by signal {killer} ({_name(killer)})" if killer else f"ended with exit code {code}"
        if told := next((line for line in reversed(lines) if MEMORY.search(line)), None):
            return f"the script {how}: {told[:300]}", OUT_OF_MEMORY
        return f"the script {how}{said}", KILLED if killer and not (killer == signal.SIGTERM and raised) else CODE_ERROR

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def _read(self) -> None:
        """Passes output on to this process's own; a line ends with a newline, or as progress bars end it."""
        assert self._popen.stdout is not None
        sys.stdout.flush()
        begun = b""
        while chunk := os.read(self._popen.stdout.fileno(), CHUNK):
            _write_all(1, chunk)
            *whole, begun = re.split(rb"[\r\n]+", begun + chunk)
            for line in whole:
                self._keep(line)
            begun = begun[-CHUNK:]
        self._keep(begun)

    def _keep(self, line: bytes) -> None:
        if line:
            text = line.decode("utf-8", errors="replace")
            self._last.append(text)
            self._lines.put(text)


@contextmanager
def start(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Iterator[Process]:
    """Runs a command for as long as the block lasts, and no longer than this process lives."""
    lifeline, ours = os.pipe()
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", _guard.__file__, str(lifeline), *arguments],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[lifeline],
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(lifeline)
    process = Process(popen, ours)
    try:
        yield process
    finally:
        process.kill()
        if not process._reader.is_alive():
            assert popen.stdout is not None
            popen.stdout.close()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
