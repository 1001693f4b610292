"""A driver that is left behind: in a session of its own, so that no terminal's end is its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hptransfer.core.locks import locked_by
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import written_since

PATIENCE_S = 120.0
LOOK_S = 0.1


def detach(arguments: Sequence[str], folder: RunFolder, patience_s: float = PATIENCE_S) -> tuple[int, int | None, str]:
    """Starts the command line in the background and waits until it has submitted its first jobs, or has ended.

    Args:
        arguments: of `hptransfer`.

    Returns:
        Its process id; its exit code, None while it runs; what it wrote to driver.log.
    """
    began = time.time()
    folder.create()
    folder.driver_lock.touch()  # which makes it a run's folder
    log = folder.path / "driver.log"
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "hptransfer.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        holder = locked_by(folder.driver_lock)
        if holder and holder.get("pid") == process.pid and written_since(folder, began):
            break
        time.sleep(LOOK_S)
    return process.pid, process.poll(), _since(log, begin)


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")
