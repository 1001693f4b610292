"""Where a run stands: counted from the trial folders alone, by the driver and by `status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from hptransfer.core.files import RunFolder, locked_by
from hptransfer.core.records import DIVERGED, DONE, FAILED, SWEEP, VERIFY, Outcome, Scale, Trial

RUNNING = "running"
WAITING = "waiting"


@dataclass
class ScaleProgress:
    """Trials of one scale by state, and the best value so far."""

    scale: Scale
    purpose: str = SWEEP
    states: dict[str, int] = field(default_factory=dict)
    best: Mapping[str, float] | None = None
    best_loss: float | None = None

    def add(self, trial: Trial, state: str, loss: float | None) -> None:
        self.states[state] = self.states.get(state, 0) + 1
        if loss is not None and (self.best_loss is None or loss < self.best_loss):
            self.best, self.best_loss = trial.tuned, loss


@dataclass
class Progress:
    """All scales of a run, smallest first, and the time that is left."""

    scales: list[ScaleProgress]
    seconds_left: float | None = None
    failures: list[tuple[Trial, str]] = field(default_factory=list)

    def count(self, *states: str) -> int:
        """Trials in these states; all trials without any."""
        wanted = states or (DONE, DIVERGED, FAILED, RUNNING, WAITING)
        return sum(scale.states.get(state, 0) for scale in self.scales for state in wanted)


def progress(trials: Iterable[tuple[Trial, Outcome | None]], running: Mapping[str, object], slots: int) -> Progress:
    """
    Args:
        running: ids of trials that are being trained now.
        slots: trials, or stacks of trials, that run side by side.
    """
    rows = list(trials)
    scales: dict[tuple[str, Scale], ScaleProgress] = {}
    failures = []
    for trial, outcome in sorted(rows, key=lambda row: (row[0].purpose == VERIFY, row[0].flops)):
        entry = scales.setdefault((trial.purpose, trial.scale), ScaleProgress(trial.scale, trial.purpose))
        if outcome is None:
            entry.add(trial, RUNNING if trial.id in running else WAITING, None)
        else:
            entry.add(trial, outcome.state, outcome.loss)
            if outcome.error:
                failures.append((trial, outcome.error))
    return Progress(list(scales.values()), _seconds_left(rows, slots), failures)


def _seconds_left(rows: Iterable[tuple[Trial, Outcome | None]], slots: int) -> float | None:
    """Time for what is open, at the speed of finished trials of the same scale, else of all."""
    finished = [
        (trial, outcome) for trial, outcome in rows if outcome is not None and outcome.state == DONE and outcome.seconds
    ]
    if not finished:
        return None
    speeds: dict[Scale, list[float]] = {}
    for trial, outcome in finished:
        speeds.setdefault(trial.scale, []).append(outcome.seconds / trial.flops)
    overall = sum(outcome.seconds for _, outcome in finished) / sum(trial.flops for trial, _ in finished)
    left = sum(
        trial.flops * (fmean(speeds[trial.scale]) if trial.scale in speeds else overall)
        for trial, outcome in rows
        if outcome is None
    )
    return left / slots


def read_progress(folder: RunFolder) -> Progress:
    """Where a run stands, from its folder."""
    trials = folder.read_trials()
    rows = [(trial, folder.read_outcome(trial.id)) for trial in trials]
    running = {trial.id: True for trial, outcome in rows if outcome is None and locked_by(folder.lease(trial.id))}
    return progress(rows, running, max(1, len(running)))
