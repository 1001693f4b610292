"""Trackers: stores for watching and comparing sweeps, one file each."""

from hptransfer.trackers._background import BackgroundTracker
from hptransfer.trackers._base import (
    TRACKERS,
    CurvePoints,
    SweepResults,
    Tracker,
    TrackerConfig,
)

__all__ = [
    "BackgroundTracker",
    "CurvePoints",
    "SweepResults",
    "TRACKERS",
    "Tracker",
    "TrackerConfig",
]
