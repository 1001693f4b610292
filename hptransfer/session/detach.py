"""Start of a driver in the background, with its own session.

The driver survives the end of the terminal that started it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hptransfer.core.io import open_for_writing
from hptransfer.core.locks import locked_by
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import state_version

FIRST_JOBS_WAIT_S = 120.0
DRIVER_CHECK_S = 0.1


def detach(
    arguments: Sequence[str], folder: RunFolder, share: str | None = None, wait_s: float = FIRST_JOBS_WAIT_S
) -> tuple[int, int | None, str]:
    """Start the command line in the background; wait for its first jobs.

    The wait is over when the driver has submitted its first jobs, has ended, or after `wait_s` seconds.

    Args:
        arguments: arguments of `hptransfer`.
        share: group of users that the folder is shared with.

    Returns:
        Its process id; its exit code, None while it runs; its output in driver.log.
    """
    before = state_version(folder)
    folder.create(share)
    folder.mark()
    log = folder.path / "driver.log"
    with open_for_writing(log, "ab") as file:
        log_start = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "hptransfer.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < deadline:
        holder = locked_by(folder.driver_lock)
        if holder and holder.get("pid") == process.pid and state_version(folder) != before:
            break
        time.sleep(DRIVER_CHECK_S)
    return process.pid, process.poll(), _read_from(log, log_start)


def _read_from(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")
