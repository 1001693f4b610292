"""Process of a running script, under a watchdog.

Its output is forwarded to the job's log, and none of its processes outlives the worker.
"""

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hptransfer.core.records import CODE_ERROR, KILLED, OUT_OF_MEMORY
from hptransfer.core.redaction import hidden_stream
from hptransfer.worker.runners.script import watchdog

# On every node, torchrun prints sixty lines of its own after those of the failed process.
MAX_LAST_LINES = 400
CHUNK_BYTES = 65536
# Limit on waiting for output after the script's end, because a grandchild may hold it open.
LAST_OUTPUT_S = 2.0
OUT_OF_MEMORY_LINE = re.compile(
    r"out of memory|OutOfMemoryError|^MemoryError|std::bad_alloc|oom[-_ ]kill|Cannot allocate memory|ENOMEM",
    re.IGNORECASE,
)
# Last line of an exception's traceback, with the rank that torch prepends, except for torchrun's own exceptions.
EXCEPTION_LINE = re.compile(
    r"(?:\[rank\d+\]:\s*)?(?!.*\b(?:ChildFailed|Signal)\w*\b)(?:\w+\.)*\w*(?:Error|Exception)(?::|$)"
)
# Lines without information on the cause of an end.
WRAPPER_LINE = re.compile(r"[=\-*\s]+$|srun: |slurmstepd: |\[\d\]:$|<NO_OTHER_FAILURES>")


def ended_by(code: int) -> int:
    """Return the signal that ended a process; 0 if none did.

    Shells and launchers report a signal as an exit code of 128 more.
    """
    return -code if code < 0 else code - 128 if code > 128 else 0


class Process:
    """Process of one script, in a session of its own (see `start_script`)."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: int, secrets: Collection[str] = ()) -> None:
        """Start to forward the output of the process.

        Args:
            lifeline: writing end of the watchdog's pipe; closing it kills the script.
            secrets: values that are hidden in the output.
        """
        self._secrets = secrets
        self._popen, self._lifeline = popen, lifeline
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=MAX_LAST_LINES)
        self._output_error: OSError | None = None
        self._reader = threading.Thread(target=self._forward_output, daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end and return the exit code.

        It is minus the number of the signal that ended the process, or None if it is still running at the timeout.
        """
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(LAST_OUTPUT_S)
        return code

    def new_lines(self) -> Iterator[str]:
        """Yield the lines printed since the last call."""
        while not self._lines.empty():
            yield self._lines.get()

    def check_output(self) -> None:
        """Raise OSError if output of the script could not be written."""
        if self._output_error is not None:
            raise self._output_error

    def stop(self, grace_s: float) -> None:
        """Ask the group to end; kill it after the grace period."""
        self._signal(signal.SIGTERM)
        if self.wait(grace_s) is None:
            self.kill()

    def kill(self) -> None:
        """Kill the process, and all processes that it left behind."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(2 * watchdog.END_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        self._popen.wait()
        self._reader.join(LAST_OUTPUT_S)

    def failure(self, code: int) -> tuple[str, str]:
        """Return one line on how the script ended, and one of records.CAUSES.

        If one of several processes fails, the script is ended as a whole. The reason is the exception of that process.
        """
        lines = [line.strip() for line in self._last_lines if line.strip()]
        exception_line = next((line for line in reversed(lines) if EXCEPTION_LINE.match(line)), None)
        informative_line = exception_line or next(
            (line for line in reversed(lines) if not WRAPPER_LINE.match(line)), None
        )
        reason = f": {informative_line[:300]}" if informative_line else ""
        number = ended_by(code)
        end = f"killed by signal {number} ({_signal_name(number)})" if number else f"ended with exit code {code}"
        if memory_line := next((line for line in reversed(lines) if OUT_OF_MEMORY_LINE.search(line)), None):
            return f"the script {end}: {memory_line[:300]}", OUT_OF_MEMORY
        killed = number and not (number == signal.SIGTERM and exception_line)
        return f"the script {end}{reason}", KILLED if killed else CODE_ERROR

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def _forward_output(self) -> None:
        """Forward the output to that of this process, and store its lines.

        A line ends with a newline, or with a carriage return as in progress bars. Output that cannot be written, as on
        a full disk, is still read: the script would wait for ever otherwise.
        """
        assert self._popen.stdout is not None
        output, partial = self._popen.stdout.fileno(), b""
        for chunk in hidden_stream(iter(lambda: os.read(output, CHUNK_BYTES), b""), self._secrets):
            if self._output_error is None:
                try:
                    sys.stdout.flush()
                    _write_all(1, chunk)
                except OSError as error:
                    self._output_error = error
            *lines, partial = re.split(rb"[\r\n]+", partial + chunk)
            for line in lines:
                self._store_line(line)
            partial = partial[-CHUNK_BYTES:]
        self._store_line(partial)

    def _store_line(self, line: bytes) -> None:
        if line:
            text = line.decode("utf-8", errors="replace")
            self._last_lines.append(text)
            self._lines.put(text)


@contextmanager
def start_script(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], secrets: Collection[str] = ()
) -> Iterator[Process]:
    """Run a command, at most as long as the block.

    It also ends with this process.

    Args:
        secrets: values that are hidden in the output.
    """
    lifeline, writing_end = os.pipe()
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, str(lifeline), *arguments],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[lifeline],
            start_new_session=True,
        )
    except BaseException:
        os.close(writing_end)
        raise
    finally:
        os.close(lifeline)
    process = Process(popen, writing_end, secrets)
    try:
        yield process
    finally:
        process.kill()
        if not process._reader.is_alive():
            assert popen.stdout is not None
            popen.stdout.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
