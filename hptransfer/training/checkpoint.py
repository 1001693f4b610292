"""Checkpoint: one stack's state in one file, from which training resumes."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hptransfer.core.errors import Interrupted
from hptransfer.core.io import open_for_writing, set_aside
from hptransfer.core.records import digest

CHECKPOINT_VERSION = 1

State = dict[str, Any]
"""Tensors, numbers and texts, in lists and dictionaries."""


class Checkpoint:
    """File of a stack's state, saved at intervals and when training stops.

    Args:
        path: the file; a temporary one next to it exists while it is written.
        settings: JSON values of everything that a state depends on; a state of other settings is not used.
        every_s: seconds between two regular saves.
        stop: function that returns why training is to stop now, or None.
        curves: files that must be on disk before the state, which records the length written to them.
    """

    def __init__(
        self,
        path: Path,
        *,
        settings: Mapping[str, Any],
        every_s: float,
        stop: Callable[[], str | None],
        curves: Sequence[Path] = (),
    ) -> None:
        self._path, self._stop, self._curves = path, stop, curves
        self._new = path.with_name(f"{path.name}.new")
        self._settings = digest(settings)
        self._every_s = every_s
        self._due = time.monotonic() + every_s
        self._state = self._read() if path.exists() else None
        self.step = 0 if self._state is None else int(self._state["step"])

    def take(self) -> State | None:
        """Release the state that was read and return it; None without one."""
        state, self._state = self._state, None
        return state

    def keep(self, state: Callable[[], State]) -> None:
        """Save the state if due; call this between any two steps.

        Raises:
            Interrupted: training is to stop, and its state has been saved.
        """
        cause = self._stop()
        if cause is None and time.monotonic() < self._due:
            return
        self._write(state())
        self._due = time.monotonic() + self._every_s
        if cause is not None:
            raise Interrupted(cause)

    def remove(self) -> None:
        """Remove the file after all trials have ended."""
        self._path.unlink(missing_ok=True)
        self._new.unlink(missing_ok=True)  # left by an attempt that was killed while writing

    def _read(self) -> State | None:
        try:
            return self._load()
        except Exception as error:  # a damaged file raises anything
            set_aside(self._path)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(
                f"checkpoint {self._path} cannot be used ({reason}); set aside, the stack restarts from its first step",
                flush=True,
            )
            return None

    def _load(self) -> State:
        with zipfile.ZipFile(self._path) as archive:  # torch does not verify the checksums that it writes
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        content: State = torch.load(self._path, weights_only=True)
        for key, expected in (("version", CHECKPOINT_VERSION), ("settings", self._settings)):
            if content[key] != expected:
                raise ValueError(f"its {key}: {content[key]}, not {expected}")
        state: State = content["state"]
        return state

    def _write(self, state: State) -> None:
        for curve in self._curves:
            _sync(curve)
        try:
            with open_for_writing(self._new, "wb") as file:
                torch.save({"version": CHECKPOINT_VERSION, "settings": self._settings, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            self._new.replace(self._path)
        except BaseException:
            self._new.unlink(missing_ok=True)
            raise
        _sync(self._path.parent)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
