"""Script: run any training script as a command with a trial's values."""

from hptransfer.worker.runners.script.runner import ScriptRunner

__all__ = ["ScriptRunner"]
