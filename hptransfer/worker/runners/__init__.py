"""Runners: what trains a trial. One file each."""

from hptransfer.worker.runners._base import (
    RUNNERS,
    OnTrialEnd,
    Runner,
    Size,
    StackContext,
)

__all__ = [
    "StackContext",
    "OnTrialEnd",
    "RUNNERS",
    "Runner",
    "Size",
]
