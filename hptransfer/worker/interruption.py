"""Why a worker stops before its job is done: a signal, the end of its time, or another attempt that took over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from types import FrameType

from hptransfer.core.errors import EXIT_UNFINISHED, Superseded
from hptransfer.core.records import CANCELLED, PREEMPTED, TIME_LIMIT
from hptransfer.core.run_folder import RunFolder

SIGNAL_CAUSES = {signal.SIGTERM: PREEMPTED, signal.SIGUSR2: TIME_LIMIT, signal.SIGINT: CANCELLED}
# What is kept of a job's time for its last step and checkpoint: this share of what was left at the start, at most so
# many seconds.
MARGIN_SHARE, MARGIN_S = 0.1, 60.0
LOOK_S = 15.0
SCONTROL_TIMEOUT_S = 20.0


class StopCheck:
    """The question whether to go on, asked at every step, and so one that must cost nothing.

    Attributes:
        cause: why not to, once there is a reason; one of records.CAUSES.
    """

    def __init__(self, ends: float | None = None, *, once: bool = False) -> None:
        """
        Args:
            ends: when this process's time ends, in seconds since 1970.
            once: there is one job: after it a signal, such as that of a requeue it asked for, changes nothing.
        """
        now = time.time()
        self.cause: str | None = None
        self._deadline = None if ends is None else ends - min(MARGIN_S, MARGIN_SHARE * max(0.0, ends - now))
        self._fence: Callable[[], None] = lambda: None
        self._look = now + LOOK_S
        self._busy, self._once = False, once

    def listen(self) -> None:
        """Takes the signals. Between jobs one ends the process; in a job it is noted, and nothing else.

        An exception out of a handler could come in the middle of a write, or of a call into a library.
        """

        def note(number: int, frame: FrameType | None) -> None:
            self.cause = self.cause or SIGNAL_CAUSES[signal.Signals(number)]
            if not self._busy:
                raise SystemExit(EXIT_UNFINISHED)

        for number in SIGNAL_CAUSES:
            signal.signal(number, note)

    def guard(self, folder: RunFolder, job: str, attempt: int | None) -> Callable[[], None]:
        """From now on in this attempt of a job; returns what raises Superseded once it no longer is the job's."""
        self._busy = True

        def fence() -> None:
            if attempt is not None and (now := folder.read_job(job).attempt) != attempt:
                raise Superseded(f"attempt {attempt} of job {job} ends: its file names attempt {now}")

        self._fence = fence
        fence()
        return fence

    def free(self) -> None:
        """From now on between jobs."""
        self._busy = self._once
        self._fence = lambda: None

    def __call__(self) -> str | None:
        """
        Raises:
            Superseded: the job is another attempt's.
        """
        now = time.time()
        if now >= self._look:
            self._look = now + LOOK_S
            self._fence()
        if self.cause is None and self._deadline is not None and now >= self._deadline:
            self.cause = TIME_LIMIT
        return self.cause


def end_of_time() -> float | None:
    """When this process's time ends, in seconds since 1970, as the job's script or the scheduler says."""
    for name in ("HPTRANSFER_DEADLINE", "SLURM_JOB_END_TIME"):
        if os.environ.get(name, "").isdigit():
            return float(os.environ[name])
    return None


def requeued() -> bool:
    """Asks SLURM to run this process's job again from where it is; False where it cannot, or will not."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:  # whose first task has the id of the whole array
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"no requeue of job {job}: {error}", flush=True)
        return False
    print(f"requeue of job {job}: {done.stderr.strip() or 'done'}", flush=True)
    return done.returncode == 0
