"""The port to a tracking store: a view of the trial folders that can be made again at any time."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.files import RunFolder, read_jsonl
from hptransfer.core.records import Outcome, Trial
from hptransfer.core.registry import Registry


class Tracker(ABC):
    """Writes finished trials into a store. Writing the same trial again changes nothing."""

    @abstractmethod
    def log(self, trial: Trial, outcome: Outcome, curve: Sequence[Mapping[str, Any]]) -> None:
        """Writes one finished trial with its curve."""

    @abstractmethod
    def summarize(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Writes the sweep's own results, and attaches files to it."""


@dataclass(kw_only=True)
class TrackerConfig(ABC):
    """Settings of one tracker."""

    name: str

    @abstractmethod
    def open(self, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> Tracker | None:
        """A tracker for one run, or None if nothing is to be tracked.

        Args:
            name: the sweep's name.
            settings: plain values that describe the sweep.
        """


TRACKERS: Registry[type[TrackerConfig]] = Registry("tracker", "hptransfer.sweep.trackers")


class Background:
    """Runs a tracker in a thread, so that the driver never waits for it.

    A store that cannot be written does not stop the sweep: `problem` says what happened, and the
    next run of the same command writes what is missing.
    """

    def __init__(self, open_tracker: Callable[[], Tracker | None], folder: RunFolder) -> None:
        self.problem: str | None = None
        self._folder = folder
        self._queue: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, args=(open_tracker,), daemon=True)
        self._thread.start()

    def log(self, trial: Trial, outcome: Outcome) -> None:
        """Queues a finished trial."""
        curve_path = self._folder.curve_path(trial.id)
        self._queue.put(lambda tracker: tracker.log(trial, outcome, read_jsonl(curve_path)))

    def summarize(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Queues the sweep's results."""
        self._queue.put(lambda tracker: tracker.summarize(metrics, files))

    def close(self, wait_s: float | None = None) -> None:
        """Waits until everything queued is written, or for so many seconds."""
        self._queue.put(None)
        self._thread.join(wait_s)

    def _work(self, open_tracker: Callable[[], Tracker | None]) -> None:
        tracker: Tracker | None = None
        try:
            tracker = open_tracker()
        except Exception as error:  # any failure of any store: reported, never fatal
            self._note(error)
        while (action := self._queue.get()) is not None:
            if tracker is not None:
                try:
                    action(tracker)
                except Exception as error:
                    self._note(error)

    def _note(self, error: Exception) -> None:
        self.problem = self.problem or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
