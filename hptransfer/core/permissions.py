"""Permissions of a run folder: private to its owner, or shared with one group."""

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
    """Makes a folder and all in it its owner's alone, or a group's too; what belongs to other users is left to them.

    Raises:
        RunFolderError: there is no such group, or the user is not in it.
    """
    mode, group = (SHARED, _group(share)) if share else (PRIVATE, -1)
    there = folder.stat()
    if stat.S_IMODE(there.st_mode) == mode and group in (-1, there.st_gid):
        return
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        with contextlib.suppress(PermissionError, FileNotFoundError):
            os.chown(path, -1, group)
            runs = path.stat().st_mode & stat.S_IXUSR
            path.chmod(mode if path.is_dir() else mode & (0o777 if runs else 0o666))


def _group(name: str) -> int:
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise RunFolderError(f"share: there is no group {name!r} on this machine; `id -Gn` lists yours") from None
    if os.geteuid() and number not in {os.getegid(), *os.getgroups()}:
        raise RunFolderError(f"share: you are not in the group {name!r}; `id -Gn` lists yours")
    return number


def restrict_umask(folder: Path) -> int:
    """Has this process make files that are no more open than a run folder; returns the umask that it had before."""
    return os.umask(~folder.stat().st_mode & 0o077)


@contextmanager
def restricted_umask(folder: Path) -> Iterator[None]:
    """`restrict_umask` for a while."""
    before = restrict_umask(folder)
    try:
        yield
    finally:
        os.umask(before)
