"""Script: any training script, run as a command with the values of a trial in its arguments."""

from hptransfer.worker.runners.script.runner import Script

__all__ = ["Script"]
