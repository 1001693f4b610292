"""The port to a tracking store: a view of the trial folders that can be made again at any time."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.io import read_jsonl
from hptransfer.core.records import Outcome, Trial
from hptransfer.core.redaction import redacted
from hptransfer.core.registry import Registry
from hptransfer.core.run_folder import RunFolder

RETRY_S = 1.0
MAX_RETRY_S = 30.0
FOLLOW_S = 10.0
"""Between two looks at the curves of running trials."""
PATIENCE_S = 20.0
"""At the end, how long a store that fails is tried again after the last success."""
QUIET_S = 60.0
"""At the end, how long a store that neither fails nor writes anything is waited for."""
TOTAL_S = 600.0
"""At the end, how long a store that is slow is waited for."""

CurvePoints = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """A sweep's own results: numbers, what they say in words, and files to attach."""

    metrics: Mapping[str, float]
    files: Sequence[Path]
    text: str = ""


class Tracker(ABC):
    """Writes trials into a store; one thread calls it. Writing the same again changes nothing.

    A method raises whatever the store raises. Then the tracker is opened anew, and finds by itself what was written.
    """

    @abstractmethod
    def follow(self, trial: Trial, curve: CurvePoints) -> None:
        """Writes the curve so far of a trial that is being trained. One that began anew replaces what was written."""

    @abstractmethod
    def log(self, trial: Trial, outcome: Outcome, curve: CurvePoints) -> None:
        """Writes one finished trial with its curve."""

    @abstractmethod
    def summarize(self, summary: SweepResults) -> None:
        """Writes the sweep's own results, and attaches files to it."""

    @abstractmethod
    def close(self) -> None:
        """Says that nobody writes any more, for now."""


@dataclass(kw_only=True)
class TrackerConfig(ABC):
    """Settings of one tracker."""

    name: str

    @abstractmethod
    def note(self) -> str | None:
        """What the user should know of these settings."""

    @abstractmethod
    def open(self, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> Tracker | None:
        """A tracker for one run, or None if nothing is to be tracked.

        Args:
            name: the sweep's name.
            settings: plain values that describe the sweep.
        """


TRACKERS: Registry[type[TrackerConfig]] = Registry("tracker", "hptransfer.trackers")


class BackgroundTracker:
    """Runs a tracker in a thread, so that the driver never waits for it.

    A store that fails is tried again, at growing intervals, until the driver ends; it never stops the sweep. What
    waits is held as trial ids, and is read from disk when it is written. `missing` says what is not written; the next
    run of the same command writes it.
    """

    def __init__(self, open_tracker: Callable[[], Tracker | None], folder: RunFolder) -> None:
        self._open, self._folder = open_tracker, folder
        self._finished: dict[str, None] = {}
        self._running: dict[str, int] = {}
        self._summary: SweepResults | None = None
        self._closing = self._off = self._given_up = False
        self._problem: str | None = None
        self._progressed = time.monotonic()
        self._look = 0.0
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def started(self, trial_id: str) -> None:
        """From now on the trial's curve is shown as it grows."""
        with self._news:
            self._running[trial_id] = 0

    def log(self, trial: Trial, outcome: Outcome) -> None:
        """Queues a finished trial."""
        with self._news:
            self._running.pop(trial.id, None)
            self._finished[trial.id] = None
            self._news.notify()

    def summarize(self, metrics: Mapping[str, float], files: Sequence[Path], text: str = "") -> None:
        """Queues the sweep's results, which follow the trials. Only the last ones count."""
        with self._news:
            before = self._summary or SweepResults(metrics={}, files=())
            kept = [file for file in before.files if file not in files]
            self._summary = SweepResults(
                metrics={**before.metrics, **metrics}, files=[*kept, *files], text=text or before.text
            )
            self._news.notify()

    def close(self, wait_s: float | None = None) -> None:
        """Waits until everything queued is written; for so many seconds, or else as long as that gets on."""
        begun = time.monotonic()
        with self._news:
            self._closing = True
            self._news.notify()
        while self._thread.is_alive():
            self._thread.join(0.05)
            now = time.monotonic()
            stuck = now - max(begun, self._progressed) > (PATIENCE_S if self._problem else QUIET_S)
            if stuck or now - begun > (TOTAL_S if wait_s is None else wait_s):
                self._given_up = True  # the store is the next driver's
                return

    @property
    def missing(self) -> str | None:
        """What is not written, and why, in one line; None if nothing is."""
        if self._off or not (self._finished or self._summary or self._problem):
            return None
        parts = [f"{len(self._finished)} trials"] if self._finished else []
        parts += ["the sweep's results"] if self._summary else []
        return f"{' and '.join(parts) or 'that it ended'}; {self._problem or 'it had no answer in time'}"

    def _work(self) -> None:
        tracker: Tracker | None = None
        delay = RETRY_S
        while not self._given_up:
            try:
                tracker = tracker or self._open()
                if tracker is None:
                    self._off = True
                    return
                more = self._write(tracker)
                self._problem, delay = None, RETRY_S
                self._progressed = time.monotonic()
                if not more:
                    return
            except Exception as error:  # any failure of any store: reported, never fatal
                tracker = None
                self._problem = _reason(error)
                with self._news:
                    self._news.wait_for(lambda: self._closing, delay)
                    if self._closing:
                        time.sleep(RETRY_S)
                delay = min(2 * delay, MAX_RETRY_S)

    def _write(self, tracker: Tracker) -> bool:
        """Waits for something to write and writes it.

        Returns:
            Whether there may be more.
        """
        trial_id, summary = self._next()
        if trial_id is not None:
            self._write_trial(tracker, trial_id)
        elif summary is not None:
            tracker.summarize(summary)
            with self._news:
                if self._summary is summary:
                    self._summary = None
        elif self._closing:
            tracker.close()
            return False
        else:
            self._follow(tracker)
        return True

    def _next(self) -> tuple[str | None, SweepResults | None]:
        """A finished trial, else the results, else neither: it is time to look at running ones, or to end."""
        with self._news:
            wait = max(0.0, self._look + FOLLOW_S - time.monotonic())
            self._news.wait_for(lambda: self._finished or self._summary or self._closing, wait)
            # The last one that failed went to the end, so that one that cannot be written keeps none from it.
            return next(iter(self._finished), None), self._summary

    def _write_trial(self, tracker: Tracker, trial_id: str) -> None:
        with self._news:
            self._finished.pop(trial_id)
            self._finished[trial_id] = None
        outcome = self._folder.read_outcome(trial_id)
        if outcome is not None:  # or it was taken back meanwhile
            curve = read_jsonl(self._folder.curve_path(trial_id))
            tracker.log(self._folder.read_trial(trial_id), outcome, curve)
        with self._news:
            self._finished.pop(trial_id)

    def _follow(self, tracker: Tracker) -> None:
        """Writes what the curves of running trials have got since the last look."""
        self._look = time.monotonic()
        for trial_id, seen in list(self._running.items()):
            path = self._folder.curve_path(trial_id)
            size = path.stat().st_size if path.exists() else 0
            if size == seen or self._folder.outcome_path(trial_id).exists():
                continue
            tracker.follow(self._folder.read_trial(trial_id), read_jsonl(path))
            with self._news:
                if trial_id in self._running:
                    self._running[trial_id] = size
                if self._finished or self._closing:
                    return


def _reason(error: BaseException) -> str:
    """An error in one line, with the one that it came from: a store's messages wrap their cause many times over."""
    root = error
    while inner := root.__cause__ or root.__context__:
        root = inner
    parts = [f"{type(one).__name__}: {' '.join(str(one).split())[:160]}" for one in dict.fromkeys((error, root))]
    return redacted("; from ".join(parts))
