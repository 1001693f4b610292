"""The state of one stack in one file, from which its training goes on as if nothing had happened."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hptransfer.core.errors import Interrupted
from hptransfer.core.io import set_aside
from hptransfer.core.records import digest

VERSION = 1

State = dict[str, Any]
"""Tensors, numbers and texts, in lists and dictionaries."""


class Checkpoint:
    """Saves a stack's state when it is time to, or when training is to stop.

    Args:
        path: its file; another one beside it is there while it is written.
        settings: JSON values of all that a state depends on; another stack's state is of no use.
        every_s: seconds between two that nothing asks for.
        stop: why training is to stop now, if it is.
        curves: files that must be on disk before the state, which knows what has been written to them.
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
        """The state that was found, if any; it is not kept here any longer."""
        state, self._state = self._state, None
        return state

    def keep(self, state: Callable[[], State]) -> None:
        """Saves the state, if it is time to. To be called between any two steps.

        Raises:
            Interrupted: training is to stop, and has saved its state.
        """
        cause = self._stop()
        if cause is None and time.monotonic() < self._due:
            return
        self._write(state())
        self._due = time.monotonic() + self._every_s
        if cause is not None:
            raise Interrupted(cause)

    def remove(self) -> None:
        """To be called when all trials have ended."""
        self._path.unlink(missing_ok=True)
        self._new.unlink(missing_ok=True)  # of an attempt that was killed while it wrote

    def _read(self) -> State | None:
        try:
            return self._load()
        except Exception as error:  # a damaged file raises anything
            set_aside(self._path)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"checkpoint {self._path} cannot be used ({reason}); set aside, the stack starts anew", flush=True)
            return None

    def _load(self) -> State:
        with zipfile.ZipFile(self._path) as whole:  # torch does not look at the checksums that it writes
            if (damaged := whole.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        found: State = torch.load(self._path, weights_only=True)
        for key, wanted in (("version", VERSION), ("settings", self._settings)):
            if found[key] != wanted:
                raise ValueError(f"its {key}: {found[key]}, not {wanted}")
        state: State = found["state"]
        return state

    def _write(self, state: State) -> None:
        for curve in self._curves:
            _sync(curve)
        try:
            with self._new.open("wb") as file:
                torch.save({"version": VERSION, "settings": self._settings, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            self._new.replace(self._path)
        except BaseException:
            self._new.unlink(missing_ok=True)
            raise
        _sync(self._path.parent)


def _sync(path: Path) -> None:
    """Has the kernel put a file, or a folder's names, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
