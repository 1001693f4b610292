"""Runners: train the trials of a stack, one file each."""

from hptransfer.worker.runners._base import (
    RUNNERS,
    OnTrialEnd,
    Runner,
    Size,
    StackContext,
)

__all__ = [
    "OnTrialEnd",
    "RUNNERS",
    "Runner",
    "Size",
    "StackContext",
]
