"""Progress of a run: trials by state.

The driver and `status` count alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from hptransfer.core.records import (
    CANCELLED,
    DIVERGED,
    DONE,
    FAILED,
    LOSS,
    PRUNED,
    SWEEP,
    VERIFY,
    Objective,
    Outcome,
    Scale,
    Trial,
)

TRIAL_RUNNING = "running"
TRIAL_WAITING = "waiting"
ENDED_STATES = (DONE, DIVERGED, PRUNED, FAILED, CANCELLED)
TRIAL_STATES = (*ENDED_STATES, TRIAL_RUNNING, TRIAL_WAITING)


@dataclass
class ScaleProgress:
    """Trials of one scale by state, and the best value so far."""

    scale: Scale
    purpose: str = SWEEP
    states: dict[str, int] = field(default_factory=dict)
    best: Mapping[str, float] | None = None
    best_loss: float | None = None

    def add(self, trial: Trial, state: str, loss: float | None, objective: Objective = LOSS) -> None:
        """Count a trial."""
        self.states[state] = self.states.get(state, 0) + 1
        if loss is None:
            return
        if self.best_loss is None or objective.minimized(loss) < objective.minimized(self.best_loss):
            self.best, self.best_loss = trial.tuned, loss


@dataclass
class Progress:
    """Progress of all scales of a run, smallest first.

    Attributes:
        seconds_left: estimated time for unfinished trials; None before one is done, 0 if it has passed.
        failures: trials that ended with an error, without those that were cancelled.
        metric: name of the metric that ranks trials.
    """

    scales: list[ScaleProgress]
    seconds_left: float | None = None
    failures: list[tuple[Trial, Outcome]] = field(default_factory=list)
    metric: str = LOSS.name

    def count(self, *states: str) -> int:
        """Number of trials in these states; of all trials without any."""
        counts = self.counts()
        return sum(counts[state] for state in states or TRIAL_STATES)

    def counts(self) -> dict[str, int]:
        """Number of trials by state."""
        return {state: sum(scale.states.get(state, 0) for scale in self.scales) for state in TRIAL_STATES}


def count_progress(
    trials: Iterable[tuple[Trial, Outcome | None]],
    running: Collection[str],
    slots: int,
    objective: Objective = LOSS,
    *,
    since_s: float = 0.0,
) -> Progress:
    """Count trials by scale and state.

    Args:
        running: ids of trials that are being trained now.
        slots: number of trials, or stacks of trials, that run side by side.
        since_s: seconds since the last trial ended, or since the driver started.
    """
    rows = list(trials)
    scales: dict[tuple[str, Scale], ScaleProgress] = {}
    flops: dict[tuple[str, Scale], float] = {}
    failures = []
    for trial, outcome in rows:
        key = trial.purpose, trial.scale
        if key not in scales:
            scales[key], flops[key] = ScaleProgress(trial.scale, trial.purpose), trial.flops
        entry = scales[key]
        if outcome is None:
            entry.add(trial, TRIAL_RUNNING if trial.id in running else TRIAL_WAITING, None)
        else:
            entry.add(trial, outcome.label, outcome.loss, objective)
            if outcome.label == FAILED:
                failures.append((trial, outcome))
    ordered = sorted(scales, key=lambda key: (key[0] == VERIFY, flops[key], *key[1].axes.values()))
    seconds_left = _seconds_left(rows, slots, since_s if running else 0.0)
    return Progress([scales[key] for key in ordered], seconds_left, failures, objective.name)


def _seconds_left(rows: Iterable[tuple[Trial, Outcome | None]], slots: int, since_s: float) -> float | None:
    """Estimated seconds for all unfinished trials.

    The speed is that of finished trials of the same scale, else of all scales. Between two trials that end, the
    estimate falls with the clock.
    """
    done: dict[Scale, tuple[float, float]] = {}
    open_flops: dict[Scale, float] = {}
    for trial, outcome in rows:
        if outcome is None:
            open_flops[trial.scale] = open_flops.get(trial.scale, 0.0) + trial.flops
        elif outcome.state == DONE and outcome.seconds:  # an imported trial took no time here
            seconds, flops = done.get(trial.scale, (0.0, 0.0))
            done[trial.scale] = seconds + outcome.seconds, flops + trial.flops
    if not done:
        return None
    overall = sum(seconds for seconds, _ in done.values()), sum(flops for _, flops in done.values())
    seconds_left = 0.0
    for scale, flops in open_flops.items():
        seconds, measured = done.get(scale, overall)
        seconds_left += flops * seconds / measured
    return max(0.0, seconds_left / slots - since_s)
