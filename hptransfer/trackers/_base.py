"""Port to a tracking store, a view of the trial folders.

It can be created again at any time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.records import Outcome, Scale, Trial
from hptransfer.core.registry import Registry
from hptransfer.core.run_folder import RunFolder

CurvePoints = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TrackedSweep:
    """Description of a sweep to its tracker.

    Attributes:
        settings: plain values that describe the sweep.
        scales: scales of the sweep; they share their axes.
        tuned: names of the tuned hyperparameters.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scales: Sequence[Scale] = ()
    tuned: Sequence[str] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of all axes."""
        return tuple(self.scales[0].axes) if self.scales else ()

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the axes in which the scales differ."""
        return tuple(axis for axis in self.axes if len({scale.axes[axis] for scale in self.scales}) > 1)


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """Results of a sweep: numbers, a text, and attached files."""

    metrics: Mapping[str, float]
    files: Sequence[Path]
    text: str = ""


class RefusedError(Exception):
    """Error of data that a store refuses, and would refuse again."""


class Tracker(ABC):
    """Writer of trials into a store, called by one thread.

    Writing the same data again changes nothing. A method raises any error of the store. The tracker is then opened
    again, and finds out by itself what has been written. After a RefusedError it stays open, and the data are left out.
    """

    @abstractmethod
    def follow(self, trial: Trial, curve: CurvePoints) -> None:
        """Write the curve so far of a running trial.

        The curve of a restarted trial replaces the one that was written.
        """

    @abstractmethod
    def log(self, trial: Trial, outcome: Outcome, curve: CurvePoints) -> None:
        """Write one finished trial with its curve."""

    @abstractmethod
    def summarize(self, summary: SweepResults) -> None:
        """Write the sweep's results, and attach files to it."""

    @abstractmethod
    def close(self) -> None:
        """Mark the sweep as ended, at least for now."""


@dataclass(kw_only=True)
class TrackerConfig(ABC):
    """Settings of one tracker."""

    name: str

    @abstractmethod
    def note(self) -> str | None:
        """Return a remark on these settings for the user, or None."""

    @abstractmethod
    def open(self, folder: RunFolder, sweep: TrackedSweep) -> Tracker | None:
        """Open a tracker for one run; None if tracking is off."""


TRACKERS: Registry[type[TrackerConfig]] = Registry("tracker", "hptransfer.trackers")
