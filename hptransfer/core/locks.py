"""Kernel locks on files: leases of trials and the driver's lock."""

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

from hptransfer.core.io import open_for_writing

# Some network file systems have no locks. There the attempt number in a job's file keeps workers apart.
LOCKLESS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


class LockedError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: its pid, host and since, as the process wrote them; empty if unreadable.
    """

    def __init__(self, holder: Mapping[str, Any]) -> None:
        super().__init__(str(holder))
        self.holder = holder


@contextmanager
def lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a file's lock; the kernel releases it when the process ends.

    Raises:
        LockedError: another process still holds it after `wait_s` seconds.
        RunFolderError: the path is a symbolic link, or is not a regular file.
    """
    with open_for_writing(path, "a+") as file:
        deadline = time.monotonic() + wait_s
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise LockedError(_holder(file))
            time.sleep(0.02)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        yield


def locked_by(path: Path) -> dict[str, Any] | None:
    """Return the current holder of a lock, or None.

    The check takes a shared lock for an instant only, so it never delays a writer for long.
    """
    if not path.is_file():  # a named pipe would block
        return None
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        return None if _try_lock(file, fcntl.LOCK_SH) else _holder(file)


def _try_lock(file: IO[str], kind: int) -> bool:
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
