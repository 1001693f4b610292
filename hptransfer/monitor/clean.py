"""Removal of files that a run no longer needs (`hptransfer clean`).

The caller holds the driver's lock. Files that analyze, status and the next sweep read are kept: trials, outcomes,
curves, jobs and snapshots. All files of a trial without an outcome are kept too, as a worker may be training it.

Only regular files are removed, by the names that hptransfer gives them, and nothing is reached through a link.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.io import UNFINISHED_NAME
from hptransfer.core.run_folder import RunFolder

STALE_S = 3600.0
"""Age from which a temporary file counts as left by a killed writer."""


@dataclass(frozen=True)
class Removable:
    """Files of one kind that can be removed."""

    kind: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> int:
        """Number of files."""
        return sum(1 for _ in self._files())

    @property
    def bytes(self) -> int:
        """Total size."""
        return sum(path.lstat().st_size for path in self._files())

    def _files(self) -> Iterator[Path]:
        for path in self.paths:
            if path.is_dir():
                yield from (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
            else:
                yield path

    def remove(self) -> None:
        """Remove the files; those that are already gone are skipped."""
        for path in self.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def find_removable(folder: RunFolder, *, logs: bool) -> list[Removable]:
    """Find the removable files of a run, by kind.

    Args:
        logs: include the logs of finished jobs.
    """
    folder = RunFolder(folder.path.resolve())
    trials = _subfolders(folder.path / "trials")
    finished_trials = {trial.name: trial for trial in trials if _files(trial, r"outcome\.json")}
    finished_jobs = [job for job in _jobs(folder) if set(folder.read_job(job).trials) <= finished_trials.keys()]
    by_job = rf"({'|'.join(map(re.escape, finished_jobs)) or '(?!)'})"
    kinds = {
        "leases of finished trials": [path for trial in finished_trials.values() for path in _files(trial, "lease")],
        "checkpoints of finished jobs": _files(folder.jobs, rf"{by_job}\.\d+\.checkpoint(\.new|\.set-aside-\d+)?"),
        "files set aside": _files(folder.path, r"(mlflow\.db|study\.journal)\.set-aside-\d+"),
        "temporary files of writers that were killed": _unfinished(folder, trials),
    }
    if logs:
        kinds["logs of finished jobs"] = _files(folder.jobs, rf"{by_job}\.log")
    return [Removable(kind, tuple(paths)) for kind, paths in kinds.items() if paths]


def _jobs(folder: RunFolder) -> list[str]:
    return [path.stem for path in _files(folder.jobs, r"[0-9A-Za-z]+\.json") if path.stem != "states"]


def _unfinished(folder: RunFolder, trials: list[Path]) -> list[Path]:
    """Return files of killed writers: text, MLflow store and source copy."""
    folders = (folder.path, folder.jobs, folder.path / "requests", *trials, *_subfolders(folder.snapshots))
    paths = [path for each in folders for path in _files(each, UNFINISHED_NAME)]
    paths += _files(folder.path, rf"{re.escape(folder.mlflow.name)}\.unfinished")
    paths += [path for path in _subfolders(folder.path) if path == folder.unfinished_source]
    now = folder.driver_lock.stat().st_mtime  # by the clock of the file server, as the lock was just written
    return [path for path in paths if now - path.lstat().st_mtime > STALE_S]


def _files(folder: Path, name: str | re.Pattern[str]) -> list[Path]:
    """Return a folder's regular files of a name, without links."""
    return [Path(entry) for entry in _entries(folder) if re.fullmatch(name, entry.name) and _is_file(entry)]


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries by name; none if it is a link."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
