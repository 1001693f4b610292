"""Snapshot of code, packages and settings at the start of a sweep.

A start adds snapshots/<n>/ if anything has changed since the last one:

    snapshot.json    packages, settings, state of the git repository
    changes.patch    changes that are not committed

With `snapshot: true` the source tree is copied once, and all trials of a script run in the copy. Edits to the code then
do not affect trials that are still waiting.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config import sweep as sweep_config
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.errors import ConfigError
from hptransfer.core.io import read_json, write_json, write_text
from hptransfer.core.records import digest
from hptransfer.core.redaction import hidden, read_values, redacted, without_literals
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS

GIT_TIMEOUT_S = 30.0
MAX_PATCH_BYTES = 2_000_000
MAX_LISTED_FILES = 1000
"""Largest number of changed files, and of untracked files, that are listed by name."""
MAX_SOURCE_BYTES = 200_000_000
MAX_SOURCE_FILES = 20_000


def take_snapshot(folder: RunFolder, config: SweepConfig) -> None:
    """Write environment.json, and a snapshot if anything has changed.

    Raises:
        ConfigError: the source tree is to be copied, and cannot be.
    """
    root = source_root(config)
    git = _git_state(root)
    if config.snapshot and not folder.source.exists():
        _copy_source(folder, root)
    content = {"packages": packages(), "git": git, "sweep": yaml.safe_load(redacted(sweep_config.dump_sweep(config)))}
    patch = _patch(root) if git else ""
    key = digest({**content, "patch": patch})
    number, last = _last(folder)
    if last.get("key") != key:
        number += 1
        path = folder.snapshots / str(number)
        path.mkdir(parents=True, exist_ok=True)
        if patch:
            known = read_values(sweep_config.dump_sweep(config))
            write_text(path / "changes.patch", without_literals(hidden(patch, known)))
        write_json(path / "snapshot.json", {"key": key, "time": time.time(), **content})
    write_json(folder.environment, {**_environment(), "snapshot": number})


def _last(folder: RunFolder) -> tuple[int, Mapping[str, Any]]:
    """Return the number and content of the newest complete snapshot.

    The number is 0 without one.
    """
    paths = [path for path in folder.snapshots.glob("*/snapshot.json") if path.parent.name.isdecimal()]
    if not paths:
        return 0, {}
    newest = max(paths, key=lambda path: int(path.parent.name))
    return int(newest.parent.name), read_json(newest)


def _environment() -> dict[str, Any]:
    return {
        "time": time.time(),
        "command": [redacted(word) for word in sys.argv],
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": packages(),
    }


@cache
def packages() -> dict[str, str]:
    """Return the version of every installed package, by name."""
    headers = [package.metadata for package in metadata.distributions()]
    versions = {str(header["Name"]): str(header["Version"]) for header in headers if header["Name"]}
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def source_root(config: SweepConfig) -> Path:
    """Return the folder of the training code: the script's or this package's."""
    if RUNNERS.get(config.run["runner"]).has_source_tree:
        return Path(config.run["cwd"]).resolve()
    return Path(__file__).resolve().parents[2]


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of git; None without git or a repository."""
    try:
        finished = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return finished.stdout if finished.returncode == 0 else None


def _git_state(root: Path) -> dict[str, Any] | None:
    """Return commit, branch, changed and untracked files; None outside of a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    lines = (_git(root, "status", "--porcelain", "--untracked-files=all", "--", ".") or "").splitlines()
    untracked = [line[3:] for line in lines if line.startswith("??")]
    changed = [line[3:] for line in lines if not line.startswith("??")]
    return {
        "root": (_git(root, "rev-parse", "--show-toplevel") or "").strip(),
        "commit": commit.strip(),
        "branch": (_git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "changed": changed[:MAX_LISTED_FILES],
        "untracked": untracked[:MAX_LISTED_FILES],
        "unlisted": max(0, len(changed) - MAX_LISTED_FILES) + max(0, len(untracked) - MAX_LISTED_FILES),
    }


def _patch(root: Path) -> str:
    """Return the changes that are not committed, cut off at MAX_PATCH_BYTES characters."""
    text = _git(root, "diff", "HEAD", "--", ".") or ""
    if len(text) <= MAX_PATCH_BYTES:
        return text
    return f"{text[:MAX_PATCH_BYTES]}\n... cut off at {MAX_PATCH_BYTES:,} of {len(text):,} characters\n"


def _copy_source(folder: RunFolder, cwd: Path) -> None:
    """Copy the files that git tracks, with their current content.

    The copy appears only when it is complete.
    """
    toplevel = _git(cwd, "rev-parse", "--show-toplevel")
    if toplevel is None:
        raise ConfigError(
            f"snapshot: {cwd} is not in a git repository, which defines the files to copy; make one (git init)"
        )
    root = Path(toplevel.strip())
    files = [root / name for name in (_git(root, "ls-files", "-z") or "").split("\0") if name]
    files = [file for file in files if file.is_symlink() or file.is_file()]
    size = sum(file.lstat().st_size for file in files)
    if size > MAX_SOURCE_BYTES or len(files) > MAX_SOURCE_FILES:
        raise ConfigError(
            f"snapshot: {root} has {len(files):,} files of {size / 1e6:,.0f} MB under git, more than "
            f"{MAX_SOURCE_FILES:,} or {MAX_SOURCE_BYTES / 1e6:,.0f} MB; take large files out of git, or leave snapshot "
            "out"
        )
    unfinished = folder.unfinished_source
    if unfinished.is_symlink():
        unfinished.unlink()
    shutil.rmtree(unfinished, ignore_errors=True)
    for file in files:
        copy = unfinished / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy, follow_symlinks=False)
        if not copy.is_symlink():
            copy.chmod(copy.stat().st_mode & folder.path.stat().st_mode)  # at most as open as the run
    unfinished.mkdir(exist_ok=True)
    write_json(folder.source_origin, {"root": str(root), "cwd": str(cwd.relative_to(root.resolve()))})
    unfinished.rename(folder.source)
