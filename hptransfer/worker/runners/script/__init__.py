"""Script: any training script, run as a command with the values of a trial in its arguments."""

from hptransfer.worker.runners.script.runner import ScriptRunner

__all__ = ["ScriptRunner"]
