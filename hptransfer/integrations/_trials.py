"""Shared parts of callbacks: trial folder, request to stop, checkpoint timer."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

STOPPED_EXIT_CODE = 128 + signal.SIGTERM
CHECKPOINT_S = 300.0
"""Seconds between two checkpoints, because a node may fail without a signal."""


def trial_folder() -> Path | None:
    """Return the folder of this process's trial; None outside of one."""
    folder = os.environ.get("HPTRANSFER_TRIAL_DIR")
    return Path(folder) if folder else None


def missing_package(package: str) -> ModuleNotFoundError:
    """Return the error about a package that an integration needs."""
    return ModuleNotFoundError(
        f"hptransfer.integrations.{package} needs the package {package!r}, which is not installed here; run "
        f"`python -m pip install 'hptransfer[{package}]'`"
    )


class StopRequest:
    """SIGTERM, noted until the step has ended; none outside a trial."""

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None
        self._listening = False

    def listen(self) -> None:
        """Note SIGTERM from now on."""
        if trial_folder() is not None and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._listening = True

    def ignore(self) -> None:
        """Restore the earlier handler."""
        if self._listening:
            signal.signal(signal.SIGTERM, self._previous if self._previous is not None else signal.SIG_DFL)
            self._listening = False

    def _note(self, number: int, frame: object) -> None:
        self.received = True


class CheckpointTimer:
    """Time of the next checkpoint."""

    def __init__(self, checkpoint_s: float) -> None:
        if not checkpoint_s > 0:
            raise ValueError(f"checkpoint_s must be above 0 seconds, got {checkpoint_s}")
        self._checkpoint_s = checkpoint_s
        self._saved = time.monotonic()

    @property
    def is_due(self) -> bool:
        """True if the last checkpoint is old enough."""
        return trial_folder() is not None and time.monotonic() - self._saved >= self._checkpoint_s

    def restart(self) -> None:
        """Note that a checkpoint has been saved now."""
        self._saved = time.monotonic()
