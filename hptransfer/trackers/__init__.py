"""Trackers: where a sweep can be watched and compared. One file each."""

from hptransfer.trackers._base import (
    TRACKERS,
    Background,
    Curve,
    Summary,
    Tracker,
    TrackerConfig,
)

__all__ = [
    "Background",
    "Curve",
    "Summary",
    "TRACKERS",
    "Tracker",
    "TrackerConfig",
]
