"""What a sweep was trained from: code, package versions and settings, written down at its start.

A start that finds all as it was before adds nothing; else it adds snapshots/<n>/ with

    snapshot.json    packages, settings, state of the git repository   changes.patch   what git says is not committed

With `snapshot: true` the source tree is copied once, and all trials of a script run in the copy:
code that is edited while they wait changes none of them.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config import sweep as sweep_config
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.errors import ConfigError
from hptransfer.core.io import read_json, write_json, write_text
from hptransfer.core.records import digest
from hptransfer.core.redaction import redacted
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS

GIT_S = 30.0
PATCH_BYTES = 2_000_000
LISTED = 1000
"""Files of one kind that are listed by name."""
SOURCE_BYTES = 200_000_000
SOURCE_FILES = 20_000


def take(folder: RunFolder, config: SweepConfig) -> None:
    """Writes environment.json, and a further snapshot if anything that matters is not as it was.

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
        place = folder.snapshots / str(number)
        place.mkdir(parents=True, exist_ok=True)
        if patch:
            write_text(place / "changes.patch", patch)
        write_json(place / "snapshot.json", {"key": key, "time": time.time(), **content})
    write_json(folder.environment, {**_environment(), "snapshot": number})


def _last(folder: RunFolder) -> tuple[int, Mapping[str, Any]]:
    """The newest snapshot that is whole, and its number; 0 if there is none."""
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


def packages() -> dict[str, str]:
    """Version of every installed package, by name."""
    found = {str(one.metadata["Name"]): one.version for one in metadata.distributions() if one.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def source_root(config: SweepConfig) -> Path:
    """Where the code that trains lies: a script's working directory, else this package."""
    if RUNNERS.get(config.run["runner"]).has_source_tree:
        return Path(config.run["cwd"]).resolve()
    return Path(__file__).resolve().parents[2]


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None if there is no repository, or no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, errors="replace", timeout=GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _git_state(root: Path) -> dict[str, Any] | None:
    """Commit and branch, and which files are not as they were committed; None outside of a repository."""
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
        "changed": changed[:LISTED],
        "untracked": untracked[:LISTED],
        "unlisted": max(0, len(changed) - LISTED) + max(0, len(untracked) - LISTED),
    }


def _patch(root: Path) -> str:
    """What is not committed, as far as it is of bounded size."""
    text = _git(root, "diff", "HEAD", "--", ".") or ""
    if len(text) <= PATCH_BYTES:
        return text
    return f"{text[:PATCH_BYTES]}\n... cut off at {PATCH_BYTES:,} of {len(text):,} characters\n"


def _copy_source(folder: RunFolder, cwd: Path) -> None:
    """Copies what git tracks, as it is now, whole or not at all."""
    top = _git(cwd, "rev-parse", "--show-toplevel")
    if top is None:
        raise ConfigError(f"snapshot: {cwd} is in no git repository, which says what to copy; make one (git init)")
    root = Path(top.strip())
    files = [root / name for name in (_git(root, "ls-files", "-z") or "").split("\0") if name]
    files = [file for file in files if file.is_symlink() or file.is_file()]
    size = sum(file.lstat().st_size for file in files)
    if size > SOURCE_BYTES or len(files) > SOURCE_FILES:
        raise ConfigError(
            f"snapshot: {root} has {len(files):,} files of {size / 1e6:,.0f} MB under git, more than "
            f"{SOURCE_FILES:,} or {SOURCE_BYTES / 1e6:,.0f} MB; take large files out of git, or leave snapshot out"
        )
    unfinished = folder.path / ".source"
    shutil.rmtree(unfinished, ignore_errors=True)
    for file in files:
        copy = unfinished / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy, follow_symlinks=False)
        if not copy.is_symlink():
            copy.chmod(copy.stat().st_mode & folder.path.stat().st_mode)  # no more open than the run
    unfinished.mkdir(exist_ok=True)
    write_json(folder.source_origin, {"root": str(root), "cwd": str(cwd.relative_to(root.resolve()))})
    unfinished.rename(folder.source)
