"""Trackers: where a sweep can be watched and compared. One file each."""

from hptransfer.trackers._base import (
    TRACKERS,
    BackgroundTracker,
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
