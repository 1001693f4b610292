"""What the driver knows and trial folders do not say, for `status`; and when nothing can go on without a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import read_json, write_json
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.progress import Progress

# A file server's clock may be so much behind this machine's.
CLOCKS_S = 1.0
HELD_BACK = "its first trial failed, the others are held back (stage=first)"
PENDING, RUNNING = "PENDING", "RUNNING"
# Reasons for which a scheduler lets a job wait that end by themselves. Any other needs somebody.
PASSING = frozenset({"", "None", "Priority", "Resources", "BeginTime", "Dependency", "Cleaning", "JobArrayTaskLimit"})


def read_states(folder: RunFolder) -> dict[str, dict[str, str]]:
    """The scheduler's states of jobs in flight, by job: state, reason, node, scheduler. Empty where there is none."""
    path = folder.jobs / "states.json"
    if not path.exists():
        return {}
    try:
        jobs = read_json(path, "jobs")["jobs"]
        return {job: {"state": "", "reason": "", "node": "", "scheduler": "", **state} for job, state in jobs.items()}
    except (RunFolderError, AttributeError, TypeError):
        return {}


def read_driver_state(folder: RunFolder) -> dict[str, Any]:
    """What `DriverState.write` wrote last: held, delayed, blocked."""
    path = folder.path / "driver.json"
    try:
        return read_json(path, "held", "delayed", "blocked") if path.exists() else {}
    except RunFolderError:
        return {}


def written_since(folder: RunFolder, moment: float) -> bool:
    """Whether a driver has come through its first tick since a moment, in seconds since 1970."""
    path = folder.path / "driver.json"
    return path.exists() and path.stat().st_mtime >= moment - CLOCKS_S


class DriverState:
    """Writes driver.json whenever what it says has changed, and tells of a block once.

    Args:
        blocked_after_s: how long every job in flight has to wait for such a reason.
        blocked: called with the reason.
    """

    def __init__(self, folder: RunFolder, blocked_after_s: float, blocked: Callable[[str, Progress], None]) -> None:
        self._folder, self._after_s, self._blocked = folder, blocked_after_s, blocked
        self._written: Mapping[str, Any] = {}
        self._since: float | None = None
        self._why: str | None = None

    def write(self, held: Mapping[str, str], delayed: Mapping[str, float]) -> None:
        values = {"held": dict(held), "delayed": dict(delayed), "blocked": self._why}
        if values != self._written:
            write_json(self._folder.path / "driver.json", values)
            self._written = values

    def look_for_blocks(self, jobs: Collection[str], progress: Progress) -> None:
        """Notices when all jobs in flight wait for what does not pass by itself."""
        states = read_states(self._folder)
        reasons = {states[job]["reason"] if is_pending(states.get(job)) else "" for job in jobs}
        if not reasons or reasons & PASSING:
            self._since = self._why = None
            return
        self._since = self._since or time.monotonic()
        if self._why is None and time.monotonic() - self._since >= self._after_s:
            self._why = f"all jobs wait: {', '.join(sorted(reasons))}"
            self._blocked(self._why, progress)


def is_pending(state: Mapping[str, str] | None) -> bool:
    return state is not None and state["state"] == PENDING
