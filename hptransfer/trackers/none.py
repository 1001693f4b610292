"""None: no tracking store; the run folder contains everything."""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers import TRACKERS, TrackedSweep, Tracker, TrackerConfig


@TRACKERS.register("none")
@dataclass(kw_only=True)
class NoTrackerConfig(TrackerConfig):
    """Settings of tracker=none."""

    name: str = "none"

    def note(self) -> str | None:
        return None

    def open(self, folder: RunFolder, sweep: TrackedSweep) -> Tracker | None:
        return None
