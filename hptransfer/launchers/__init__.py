"""Launchers: where jobs run. One file each."""

from hptransfer.launchers._base import (
    LAUNCHERS,
    Ended,
    Launcher,
    LauncherConfig,
    check_stack,
    num_cores,
)

__all__ = [
    "Ended",
    "LAUNCHERS",
    "Launcher",
    "LauncherConfig",
    "check_stack",
    "num_cores",
]
