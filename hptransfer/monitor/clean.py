"""Removal of files that a run no longer needs (`hptransfer clean`).

The caller holds the driver's lock. Files that analyze, status and the next sweep read are kept: trials, outcomes,
curves, jobs and snapshots. All files of a trial without an outcome are kept too, as a worker may be training it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
                yield from (file for file in path.rglob("*") if not file.is_dir())
            else:
                yield path

    def remove(self) -> None:
        """Remove the files; those that are already gone are skipped."""
        for path in self.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def find_removable(folder: RunFolder, *, logs: bool) -> list[Removable]:
    """Find the removable files of a run, by kind.

    Args:
        logs: include the logs of finished jobs.
    """
    finished_trials = {path.parent.name for path in folder.path.glob("trials/*/outcome.json")}
    finished_jobs = [job for job in _jobs(folder) if set(folder.read_job(job).trials) <= finished_trials]
    kinds = {
        "leases of finished trials": [folder.lease(trial_id) for trial_id in sorted(finished_trials)],
        "checkpoints of finished jobs": [
            path for job in finished_jobs for path in sorted(folder.jobs.glob(f"{job}.*checkpoint*"))
        ],
        "files set aside": sorted(folder.path.glob("*.set-aside-*")),
        "temporary files of writers that were killed": _temporary_files(folder),
    }
    if logs:
        kinds["logs of finished jobs"] = [
            path for job in finished_jobs for path in sorted(folder.jobs.glob(f"{job}*.log"))
        ]
    existing = {kind: tuple(path for path in paths if path.exists()) for kind, paths in kinds.items()}
    return [Removable(kind, paths) for kind, paths in existing.items() if paths]


def _jobs(folder: RunFolder) -> list[str]:
    return sorted(path.stem for path in folder.jobs.glob("*.json") if path.stem.isalnum() and path.stem != "states")


def _temporary_files(folder: RunFolder) -> list[Path]:
    """Return files of killed writers: text, MLflow store and source copy."""
    patterns = (".*", "mlflow.db.unfinished", "jobs/.*", "trials/*/.*", "snapshots/*/.*")
    paths = {path for pattern in patterns for path in folder.path.glob(pattern)}
    return sorted(path for path in paths if time.time() - path.lstat().st_mtime > STALE_S)
