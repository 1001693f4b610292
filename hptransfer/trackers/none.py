"""None: no tracking store; the run folder contains everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers import TRACKERS, Tracker, TrackerConfig


@TRACKERS.register("none")
@dataclass(kw_only=True)
class NoTrackerConfig(TrackerConfig):
    """Settings of tracker=none."""

    name: str = "none"

    def note(self) -> str | None:
        return None

    def open(self, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> Tracker | None:
        return None
