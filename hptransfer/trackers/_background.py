"""Background thread of a tracker: the driver never waits for the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hptransfer.core.errors import HptransferError
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import Outcome, Trial
from hptransfer.core.redaction import redacted
from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers._base import RefusedError, SweepResults, Tracker

RETRY_S = 1.0
MAX_RETRY_S = 30.0
FOLLOW_S = 10.0
"""Seconds between two checks of the curves of running trials."""
FAILING_STORE_WAIT_S = 20.0
"""At the end, seconds for which a failing store is retried after the last success."""
IDLE_STORE_WAIT_S = 60.0
"""At the end, seconds to wait for a store that neither fails nor writes."""
CLOSE_WAIT_S = 600.0
"""At the end, seconds to wait for a slow store in total."""


class BackgroundTracker:
    """Tracker in a thread of its own.

    A store that fails is retried at growing intervals until the driver ends; it never stops the sweep. Pending trials
    are held as ids, and are read from disk when they are written. `missing` describes what has not been written; the
    next run of the same command writes it.
    """

    def __init__(self, open_tracker: Callable[[], Tracker | None], folder: RunFolder) -> None:
        self._open_tracker, self._folder = open_tracker, folder
        self._finished: dict[str, None] = {}
        self._running: dict[str, int] = {}
        self._summary: SweepResults | None = None
        self._refused: dict[str, str] = {}
        self._closing = self._disabled = self._abandoned = False
        self._problem: str | None = None
        self._last_success = time.monotonic()
        self._last_follow = 0.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def started(self, trial_id: str) -> None:
        """Follow the trial's curve as it grows."""
        with self._changed:
            self._running[trial_id] = 0

    def log(self, trial: Trial, outcome: Outcome) -> None:
        """Queue a finished trial."""
        with self._changed:
            self._running.pop(trial.id, None)
            self._finished[trial.id] = None
            self._changed.notify()

    def summarize(self, metrics: Mapping[str, float], files: Sequence[Path], text: str = "") -> None:
        """Queue the sweep's results, which are written after the trials.

        They are added to earlier results that are still queued, and replace those of the same name.
        """
        with self._changed:
            before = self._summary or SweepResults(metrics={}, files=())
            kept = [file for file in before.files if file not in files]
            self._summary = SweepResults(
                metrics={**before.metrics, **metrics}, files=[*kept, *files], text=text or before.text
            )
            self._changed.notify()

    def close(self, wait_s: float | None = None) -> None:
        """Wait until everything queued is written.

        Args:
            wait_s: longest time to wait; None to wait as long as the store makes progress.
        """
        closing_since = time.monotonic()
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive():
            self._thread.join(0.05)
            now = time.monotonic()
            limit_s = FAILING_STORE_WAIT_S if self._problem else IDLE_STORE_WAIT_S
            stuck = now - max(closing_since, self._last_success) > limit_s
            if stuck or now - closing_since > (CLOSE_WAIT_S if wait_s is None else wait_s):
                self._abandoned = True  # the next driver may open the store
                return

    @property
    def missing(self) -> str | None:
        """Unwritten data and the reason, in one line; None without any."""
        if self._disabled:
            return None
        texts = []
        if self._finished or self._summary or self._problem:
            parts = [f"{len(self._finished)} trials"] if self._finished else []
            parts += ["the sweep's results"] if self._summary else []
            texts.append(f"{' and '.join(parts) or 'that it ended'}; {self._problem or 'it had no answer in time'}")
        if self._refused:
            what, reason = next(iter(self._refused.items()))
            more = f" and {len(self._refused) - 1} more" if len(self._refused) > 1 else ""
            texts.append(f"{what}{more}, which it refuses; {reason}")
        return "; ".join(texts) or None

    def _run(self) -> None:
        tracker: Tracker | None = None
        delay = RETRY_S
        while not self._abandoned:
            try:
                tracker = tracker or self._open_tracker()
                if tracker is None:
                    self._disabled = True
                    return
                more = self._write(tracker)
                self._problem, delay = None, RETRY_S
                self._last_success = time.monotonic()
                if not more:
                    return
            except Exception as error:  # any failure of any store: reported, never fatal
                tracker = None
                self._problem = _describe_error(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, delay)
                    if self._closing:
                        time.sleep(RETRY_S)
                delay = min(2 * delay, MAX_RETRY_S)

    def _write(self, tracker: Tracker) -> bool:
        """Wait for one item and write it.

        Returns:
            True if there may be further items.
        """
        trial_id, summary = self._next_item()
        if trial_id is not None:
            self._write_trial(tracker, trial_id)
        elif summary is not None:
            with self._noting_refusal("the sweep's results"):
                tracker.summarize(summary)
            with self._changed:
                if self._summary is summary:
                    self._summary = None
        elif self._closing:
            tracker.close()
            return False
        else:
            self._follow(tracker)
        return True

    def _next_item(self) -> tuple[str | None, SweepResults | None]:
        """Return a finished trial, or else the results.

        If there is neither, the thread checks running trials or ends.
        """
        with self._changed:
            wait = max(0.0, self._last_follow + FOLLOW_S - time.monotonic())
            self._changed.wait_for(lambda: self._finished or self._summary or self._closing, wait)
            # A trial that failed was moved to the end, so that it does not block the others.
            return next(iter(self._finished), None), self._summary

    def _write_trial(self, tracker: Tracker, trial_id: str) -> None:
        with self._changed:
            self._finished.pop(trial_id)
            self._finished[trial_id] = None
        outcome = self._folder.read_outcome(trial_id)
        if outcome is not None:  # None if the trial was reset meanwhile
            curve = read_jsonl(self._folder.curve_path(trial_id))
            with self._noting_refusal(f"trial {trial_id}"):
                tracker.log(self._folder.read_trial(trial_id), outcome, curve)
        with self._changed:
            self._finished.pop(trial_id)

    @contextmanager
    def _noting_refusal(self, what: str) -> Iterator[None]:
        """Leave out what the store refuses: nothing else waits behind it."""
        try:
            yield
            self._refused.pop(what, None)
        except RefusedError as error:
            self._refused[what] = _describe_error(error)

    def _follow(self, tracker: Tracker) -> None:
        """Write the curves of running trials that have grown."""
        self._last_follow = time.monotonic()
        for trial_id, written in list(self._running.items()):
            path = self._folder.curve_path(trial_id)
            size = path.stat().st_size if path.exists() else 0
            if size == written or self._folder.outcome_path(trial_id).exists():
                continue
            with self._noting_refusal(f"trial {trial_id}"):
                tracker.follow(self._folder.read_trial(trial_id), read_jsonl(path))
            with self._changed:
                if trial_id in self._running:
                    self._running[trial_id] = size
                if self._finished or self._closing:
                    return


def _describe_error(error: BaseException) -> str:
    """Return an error and its root cause in one line.

    A store's messages may wrap their cause several times. A message of this package is complete.
    """
    if isinstance(error, HptransferError):
        return redacted(str(error))
    root = error
    while inner := root.__cause__ or root.__context__:
        root = inner
    parts = [f"{type(part).__name__}: {' '.join(str(part).split())[:160]}" for part in dict.fromkeys((error, root))]
    return redacted("; from ".join(parts))
