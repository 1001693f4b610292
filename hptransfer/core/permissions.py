"""Permissions of a run folder: private, or shared with one group."""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hptransfer.core.errors import RunFolderError

PRIVATE = 0o700
SHARED = stat.S_ISGID | 0o770


def set_permissions(folder: Path, share: str | None) -> None:
    """Restrict a folder to its owner, and a group if given.

    Its contents follow, except for files of other users.

    Raises:
        RunFolderError: the group does not exist, or the user is not in it.
    """
    mode, group = (SHARED, _group(share)) if share else (PRIVATE, -1)
    current = folder.stat()
    if stat.S_IMODE(current.st_mode) == mode and group in (-1, current.st_gid):
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        with contextlib.suppress(PermissionError, FileNotFoundError):
            os.chown(path, -1, group)
            executable = path.stat().st_mode & stat.S_IXUSR
            path.chmod(mode if path.is_dir() else mode & (0o777 if executable else 0o666))


def _group(name: str) -> int:
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise RunFolderError(f"share: there is no group {name!r} on this machine; `id -Gn` lists yours") from None
    if os.geteuid() and number not in {os.getegid(), *os.getgroups()}:
        raise RunFolderError(f"share: you are not in the group {name!r}; `id -Gn` lists yours")
    return number


def restrict_umask(folder: Path) -> int:
    """Set a umask that keeps new files as private as a folder.

    Returns:
        The umask before.
    """
    return os.umask(~folder.stat().st_mode & 0o077)


@contextmanager
def restricted_umask(folder: Path) -> Iterator[None]:
    """Apply `restrict_umask` inside the block."""
    before = restrict_umask(folder)
    try:
        yield
    finally:
        os.umask(before)
