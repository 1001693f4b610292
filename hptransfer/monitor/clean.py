"""`hptransfer clean`: what a run no longer needs. The caller holds the driver's lock.

Never touched: what analyze, status and the next sweep read (trials, outcomes, curves, jobs, the snapshots), and all
that belongs to a trial without an outcome, which a worker may be training now.
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
"""A temporary file that is older was left by a writer that was killed."""


@dataclass(frozen=True)
class Removable:
    """Files of one kind that can go."""

    kind: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> int:
        return sum(1 for _ in self._files())

    @property
    def bytes(self) -> int:
        return sum(path.lstat().st_size for path in self._files())

    def _files(self) -> Iterator[Path]:
        for path in self.paths:
            if path.is_dir():
                yield from (one for one in path.rglob("*") if not one.is_dir())
            else:
                yield path

    def remove(self) -> None:
        for path in self.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def find_removable(folder: RunFolder, *, logs: bool) -> list[Removable]:
    """What can go, by kind; kinds of which there is nothing are left out.

    Args:
        logs: also what finished jobs printed.
    """
    ended = {path.parent.name for path in folder.path.glob("trials/*/outcome.json")}
    over = [job for job in _jobs(folder) if set(folder.read_job(job).trials) <= ended]
    kinds = {
        "leases of finished trials": [folder.lease(trial_id) for trial_id in sorted(ended)],
        "checkpoints of finished jobs": [
            path for job in over for path in sorted(folder.jobs.glob(f"{job}.*checkpoint*"))
        ],
        "files set aside": sorted(folder.path.glob("*.set-aside-*")),
        "temporary files of writers that were killed": _temporaries(folder),
    }
    if logs:
        kinds["logs of finished jobs"] = [path for job in over for path in sorted(folder.jobs.glob(f"{job}*.log"))]
    found = {kind: tuple(path for path in paths if path.exists()) for kind, paths in kinds.items()}
    return [Removable(kind, paths) for kind, paths in found.items() if paths]


def _jobs(folder: RunFolder) -> list[str]:
    return sorted(path.stem for path in folder.jobs.glob("*.json") if path.stem.isalnum() and path.stem != "states")


def _temporaries(folder: RunFolder) -> list[Path]:
    """What `write_text`, and the makers of the store and the source tree, rename when they are done."""
    patterns = (".*", "mlflow.db.unfinished", "jobs/.*", "trials/*/.*", "snapshots/*/.*")
    found = {path for pattern in patterns for path in folder.path.glob(pattern)}
    return sorted(path for path in found if time.time() - path.lstat().st_mtime > STALE_S)
