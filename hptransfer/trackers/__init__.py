"""Trackers: stores for watching and comparing sweeps, one file each."""

from hptransfer.trackers._background import BackgroundTracker
from hptransfer.trackers._base import (
    TRACKERS,
    CurvePoints,
    RefusedError,
    SweepResults,
    TrackedSweep,
    Tracker,
    TrackerConfig,
)

__all__ = [
    "BackgroundTracker",
    "CurvePoints",
    "RefusedError",
    "SweepResults",
    "TRACKERS",
    "TrackedSweep",
    "Tracker",
    "TrackerConfig",
]
