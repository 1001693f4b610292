"""Kernel locks on files: leases of trials, and the lock of the driver."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# Some network file systems have no locks. There a job's attempt, which its file names, keeps workers apart.
LOCKLESS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


class LockedError(Exception):
    """Somebody else holds the lock; `holder` is what they wrote about themselves."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        super().__init__(str(holder))
        self.holder = holder


@contextmanager
def lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds a file's lock. The kernel lets go of it when the process ends, however it ends.

    Raises:
        LockedError: it is still held by somebody else after `wait_s` seconds.
    """
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while not _try(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise LockedError(_holder(file))
            time.sleep(0.02)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        yield


def locked_by(path: Path) -> dict[str, Any] | None:
    """Who holds a lock now, or None. Looking never stands in a writer's way for long."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        return None if _try(file, fcntl.LOCK_SH) else _holder(file)


def _try(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
    return True


def _holder(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.load(file))
    except ValueError:
        return {}
