"""Runners: train the trials of a stack, one file each."""

from hptransfer.worker.runners._base import (
    RUNNERS,
    OnTrialEnd,
    Runner,
    RunSchema,
    Size,
    StackContext,
)

__all__ = [
    "OnTrialEnd",
    "RUNNERS",
    "RunSchema",
    "Runner",
    "Size",
    "StackContext",
]
