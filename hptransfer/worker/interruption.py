"""Causes for which a worker stops before its job is done.

They are signals, the deadline of the process, and another attempt that has taken over the job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from types import FrameType

from hptransfer.core.errors import EXIT_UNFINISHED, Superseded, print_error
from hptransfer.core.records import CANCELLED, PREEMPTED, TIME_LIMIT
from hptransfer.core.run_folder import RunFolder

SIGNAL_CAUSES = {signal.SIGTERM: PREEMPTED, signal.SIGUSR2: TIME_LIMIT, signal.SIGINT: CANCELLED}
# Time reserved for the last step and checkpoint: a share of the time that remained at the start, and its upper limit.
MARGIN_SHARE, MARGIN_S = 0.1, 60.0
FENCE_CHECK_S = 15.0
SCONTROL_TIMEOUT_S = 20.0


class StopCheck:
    """Check if training must stop, called at every step and therefore cheap.

    Attributes:
        cause: cause to stop, one of records.CAUSES; None while there is none.
    """

    def __init__(self, ends: float | None = None, *, once: bool = False) -> None:
        """Create the check; it is between jobs until `enter_job`.

        Args:
            ends: time at which the process must end, in seconds since 1970.
            once: true if there is a single job. A signal after it is ignored, such as that of a requested requeue.
        """
        now = time.monotonic()  # in this process no clock that may be set
        self.cause: str | None = None
        self._deadline: float | None = None
        if ends is not None:
            left_s = ends - time.time()
            self._deadline = now + left_s - min(MARGIN_S, MARGIN_SHARE * max(0.0, left_s))
        self._fence: Callable[[], None] = lambda: None
        self._next_check = now + FENCE_CHECK_S
        self._busy, self._once = False, once

    def listen(self) -> None:
        """Install the signal handlers.

        A signal between jobs ends the process. Within a job it is only noted, because an exception from a handler could
        interrupt a write or a call into a library.
        """

        def note(number: int, frame: FrameType | None) -> None:
            self.cause = self.cause or SIGNAL_CAUSES[signal.Signals(number)]
            if not self._busy:
                raise SystemExit(EXIT_UNFINISHED)

        for number in SIGNAL_CAUSES:
            signal.signal(number, note)

    def enter_job(self, folder: RunFolder, job: str, attempt: int | None) -> Callable[[], None]:
        """Start an attempt of a job.

        Returns:
            A function that raises Superseded once the job has another attempt.
        """
        self._busy = True

        def fence() -> None:
            if attempt is not None and (current := folder.read_job(job).attempt) != attempt:
                raise Superseded(f"attempt {attempt} of job {job} ends: its file names attempt {current}")

        self._fence = fence
        fence()
        return fence

    def leave_job(self) -> None:
        """End the attempt: the process is between jobs."""
        self._busy = self._once
        self._fence = lambda: None

    def __call__(self) -> str | None:
        """Return the cause to stop, or None.

        Raises:
            Superseded: the job has another attempt.
        """
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + FENCE_CHECK_S
            self._fence()
        if self.cause is None and self._deadline is not None and now >= self._deadline:
            self.cause = TIME_LIMIT
        return self.cause


def process_deadline() -> float | None:
    """Return the deadline of this process, in seconds since 1970.

    It is set by the job's script or by the scheduler; None without a time limit.
    """
    for name in ("HPTRANSFER_DEADLINE", "SLURM_JOB_END_TIME"):
        if os.environ.get(name, "").isdigit():
            return float(os.environ[name])
    return None


def requeue_job() -> bool:
    """Ask SLURM to requeue the job of this process.

    Returns:
        False if there is no SLURM job, or SLURM refuses.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:  # SLURM_JOB_ID of the first task is the id of the whole array
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        process = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print_error(f"no requeue of job {job}: {error}")
        return False
    print_error(f"requeue of job {job}: {process.stderr.strip() or 'done'}")
    return process.returncode == 0
