"""Runners: what trains a trial. One file each."""

from hptransfer.worker.runners._base import (
    RUNNERS,
    Context,
    Finish,
    Runner,
    Size,
)

__all__ = [
    "Context",
    "Finish",
    "RUNNERS",
    "Runner",
    "Size",
]
