"""Access to a run folder: reading, writing and running its code.

A run folder is private to its owner, or shared with one group.

It says which code runs, with which arguments, and which jobs of the scheduler are its own. A folder from someone else
is therefore foreign: it is only read until its user trusts it. Its owner.json holds random tokens, one for each user
who made or trusted it. The user's own state folder holds the same tokens as names of files:
`$XDG_STATE_HOME/hptransfer/owned`, usually ~/.local/state/hptransfer/owned.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, write_json

PRIVATE = 0o700
SHARED = stat.S_ISGID | 0o770
TOKEN = re.compile(r"[0-9a-f]{32}")
MARKS = ("owner.json", "sweep.yaml", "driver.lock")
"""Files by which a folder is a run's; one of them is there before anything else is written."""
WRITTEN_FOLDERS = ("jobs", "trials", "requests", "snapshots")


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


def claim(folder: Path) -> None:
    """Make a run folder the user's own.

    If the user has no state folder that can be written, it stays foreign.
    """
    token = secrets.token_hex(16)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        owned = _owned_folder()
        owned.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(owned / token, {"folder": str(folder.absolute())})
        write_json(folder / "owner.json", {"tokens": [*_tokens(folder), token]})


def is_run_folder(folder: Path) -> bool:
    """Test if a folder is a run's."""
    return any((folder / mark).exists() for mark in MARKS)


def is_foreign(folder: Path) -> bool:
    """Test if the user neither made nor trusted a run folder."""
    try:
        owned = _owned_folder()
        return not any((owned / token).is_file() for token in _tokens(folder))
    except RuntimeError:
        return True


def require_trust(folder: Path, *, trusted: bool) -> None:
    """Check that a run folder may decide what runs.

    Args:
        trusted: the user trusts it from now on.

    Raises:
        RunFolderError: it is foreign and not trusted, or has links to other places.
    """
    if not is_run_folder(folder) or not is_foreign(folder):
        return
    if not trusted:
        raise RunFolderError(
            f"{folder} was not made by you, or by an earlier version: this command would run the code and end the jobs "
            "that it names; read its sweep.yaml, then add --trust, which is needed once (docs/trust.md)"
        )
    if link := next(_links(folder), None):
        raise RunFolderError(
            f"{link} is a symbolic link to {link.readlink()}, and files would be written there; remove the link "
            "before you trust the folder"
        )
    claim(folder)


def _links(folder: Path) -> Iterator[Path]:
    """Yield links in the folders that a driver writes to."""
    for each in (folder, *(folder / name for name in WRITTEN_FOLDERS)):
        if each.is_dir():
            yield from (path for path in sorted(each.iterdir()) if path.is_symlink())


def _tokens(folder: Path) -> list[str]:
    """Return the valid tokens of a run folder."""
    try:
        tokens = read_json(folder / "owner.json", "tokens")["tokens"]
    except (OSError, RunFolderError):
        return []
    return [token for token in tokens if isinstance(token, str) and TOKEN.fullmatch(token)] if tokens else []


def _owned_folder() -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    home = state if state.is_absolute() else Path("~/.local/state").expanduser()
    return home / "hptransfer" / "owned"
