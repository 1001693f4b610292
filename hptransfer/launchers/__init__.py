"""Launchers: the machines that run jobs, one file each."""

from hptransfer.launchers._base import (
    LAUNCHERS,
    JobEnd,
    Launcher,
    LauncherConfig,
    check_stack_limit,
    num_cores,
)

__all__ = [
    "JobEnd",
    "LAUNCHERS",
    "Launcher",
    "LauncherConfig",
    "check_stack_limit",
    "num_cores",
]
