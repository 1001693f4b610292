"""The driver's state for `status`, and detection of blocked sweeps.

driver.json holds the scales that wait for their pilot trial (by `Scale.key`), the delayed jobs, and the reason of a
block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, write_json
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.progress import Progress

PILOT_FAILED = "the scale's pilot trial failed; its other trials wait (stage=first)"
PILOT_RUNNING = "waiting for the scale's pilot trial (stage=first)"
# The same reasons as earlier versions wrote them.
OLD_REASONS = {
    "its first trial failed, the others are held back (stage=first)": PILOT_FAILED,
    "waits for its scale's first trial (stage=first)": PILOT_RUNNING,
}
SCHEDULER_PENDING = "PENDING"
SCHEDULER_RUNNING = "RUNNING"
# Reasons of a scheduler for a pending job that end by themselves. Any other needs a person.
PASSING_REASONS = frozenset(
    {"", "None", "Priority", "Resources", "BeginTime", "Dependency", "Cleaning", "JobArrayTaskLimit"}
)


def read_states(folder: RunFolder) -> dict[str, dict[str, str]]:
    """Read the scheduler's states of jobs in flight.

    Returns:
        By job: `state`, `reason`, `node` and `scheduler`. Empty without a scheduler.
    """
    path = folder.jobs / "states.json"
    if not path.exists():
        return {}
    try:
        jobs = read_json(path, "jobs")["jobs"]
        return {job: {"state": "", "reason": "", "node": "", "scheduler": "", **state} for job, state in jobs.items()}
    except (RunFolderError, AttributeError, TypeError):
        return {}


def read_driver_state(folder: RunFolder) -> dict[str, Any]:
    """Read the last driver.json; empty if there is none.

    Its keys are `held` (reasons of scales that wait for their pilot trial), `delayed` and `blocked`.
    """
    path = folder.path / "driver.json"
    try:
        values = read_json(path, "held", "delayed", "blocked") if path.exists() else {}
        waiting = {scale: OLD_REASONS.get(reason, reason) for scale, reason in values.get("held", {}).items()}
        return values | {"held": waiting} if values else {}
    except (RunFolderError, AttributeError, TypeError):
        return {}


def state_version(folder: RunFolder) -> tuple[int, int] | None:
    """Return a version of driver.json; None without the file.

    It changes whenever the file is written, which a driver does after its first tick.
    """
    try:
        status = (folder.path / "driver.json").stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


class DriverState:
    """Writer of driver.json when its content has changed; reports a block once.

    Args:
        blocked_after_s: seconds that every job in flight has to wait for a reason that does not end by itself.
        blocked: called with the reason and the progress.
    """

    def __init__(self, folder: RunFolder, blocked_after_s: float, blocked: Callable[[str, Progress], None]) -> None:
        self._folder, self._after_s, self._blocked = folder, blocked_after_s, blocked
        self._written: Mapping[str, Any] = {}
        self._waiting_since: float | None = None
        self._block: str | None = None

    def write(self, waiting: Mapping[str, str], delayed: Mapping[str, float]) -> None:
        """Write driver.json.

        Args:
            waiting: reason why a scale waits for its pilot trial, by the scale's key.
            delayed: time in seconds since 1970 by job.
        """
        values = {"held": dict(waiting), "delayed": dict(delayed), "blocked": self._block}
        if values != self._written:
            write_json(self._folder.path / "driver.json", values)
            self._written = values

    def look_for_blocks(self, jobs: Collection[str], progress: Progress) -> None:
        """Report a block if all jobs in flight wait for a person."""
        states = read_states(self._folder)
        reasons = {states[job]["reason"] if is_pending(states.get(job)) else "" for job in jobs}
        if not reasons or reasons & PASSING_REASONS:
            self._waiting_since = self._block = None
            return
        self._waiting_since = self._waiting_since or time.monotonic()
        if self._block is None and time.monotonic() - self._waiting_since >= self._after_s:
            self._block = f"all jobs wait: {', '.join(sorted(reasons))}"
            self._blocked(self._block, progress)


def is_pending(state: Mapping[str, str] | None) -> bool:
    """Test if a scheduler's state of a job says that it waits."""
    return state is not None and state["state"] == SCHEDULER_PENDING
