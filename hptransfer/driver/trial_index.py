"""Index of a driver's trials by scale.

No question about one scale reads all trials.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from hptransfer.core.records import CANCELLED, DIVERGED, DONE, FAILED, LOSS, PRUNED, Objective, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.outcome_index import OutcomeIndex
from hptransfer.planning.search_space import Point

# Share of the step that others reached, below which a trial ended early: the last reports of complete trials differ by
# an interval of reports.
COMPLETE_SHARE = 0.9
# Number of trials that ended at one step, from which they show where a complete trial ends.
FEWEST_COMPLETE = 2
# Words in the names of tuned hyperparameters that change the number of steps of a trial.
STEP_WORDS = ("batch", "step", "epoch", "accum", "tokens")


@dataclass
class ScaleState:
    """State of one scale: its trials, their losses and their cost.

    Attributes:
        waiting: trials that are in no job yet, in the order in which they are to be trained.
        points: number of trials by point.
        losses: losses of finished trials by point, to be minimized; infinite where one diverged.
        pruned: points with a trial that was stopped early.
        open: number of trials that are in a job and have no outcome.
        states: number of outcomes by state.
        cancelled: number of failed trials that were cancelled.
        stopped: True if no further point is to be tried while this driver runs.
        seconds, flops: time and cost of the trials that are done.
        longest_s: longest time of a trial that is done.
        devices: number of devices that a trial of this scale holds while it trains.
        bracketed_by: number of trials that had succeeded when no further point was wanted; None while one is wanted,
            or before the question was asked.
    """

    waiting: deque[str] = field(default_factory=deque)
    points: Counter[Point] = field(default_factory=Counter)
    losses: dict[Point, list[float]] = field(default_factory=dict)
    pruned: set[Point] = field(default_factory=set)
    open: int = 0
    states: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    stopped: bool = False
    seconds: float = 0.0
    flops: float = 0.0
    longest_s: float = 0.0
    devices: int = 1
    bracketed_by: int | None = None

    @property
    def bracketed(self) -> bool:
        """True if no further point is wanted and no trial waits.

        Another trial that succeeds makes it False.
        """
        return self.bracketed_by is not None and not self.waiting and self.bracketed_by == self.succeeded

    @property
    def failed(self) -> int:
        """Number of trials that failed without being cancelled."""
        return self.states[FAILED] - self.cancelled

    @property
    def closed(self) -> bool:
        """True if the scale gets no new points.

        A cancelled trial is a wish for fewer points, not for more.
        """
        return self.stopped or self.cancelled > 0

    @property
    def succeeded(self) -> int:
        """Number of trials that trained, including those that diverged or were pruned."""
        return self.states[DONE] + self.states[DIVERGED] + self.states[PRUNED]

    def mean_losses(self) -> dict[Point, float]:
        """Mean loss over seeds by point, to be minimized, without failed trials.

        It is infinite where a seed diverged.

        A point with a pruned seed is worse than the best by an unknown amount. It counts as just worse than the worst
        point that was trained to its end.
        """
        means = {point: fmean(repeats) for point, repeats in self.losses.items() if point not in self.pruned}
        worst = max((loss for loss in means.values() if math.isfinite(loss)), default=math.inf)
        return means | dict.fromkeys(self.pruned, math.nextafter(worst, math.inf))


class TrialIndex:
    """All trials of one trial set, with their outcomes.

    Attributes:
        trials: trials by id, without their configurations: these are in the trial folders.
        device_s: device seconds measured so far, including attempts without an outcome.
        started, started_flops: number of trials that were put into a job, and their cost.
    """

    def __init__(self, folder: RunFolder, tuned: Sequence[str], objective: Objective = LOSS) -> None:
        self.trials: dict[str, Trial] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.scales: dict[Scale, ScaleState] = {}
        self.device_s = 0.0
        self.started = 0
        self.started_flops = 0.0
        self.folder, self._tuned, self._objective = folder, tuple(tuned), objective
        self._finished = OutcomeIndex(folder)
        self._same: dict[Scale, Scale] = {}

    def point(self, trial: Trial) -> Point:
        """Return a trial's point, in the order of the sweep's space."""
        return tuple(trial.tuned[name] for name in self._tuned)

    def steps(self, first: Trial, second: Trial) -> int:
        """Count the steps between the points of two trials.

        Both are of one scale; a step leads to the next value that is tried at it.
        """
        points = self.at(first.scale).points
        count = 0
        for axis, ends in enumerate(zip(self.point(first), self.point(second), strict=True)):
            count += len({tried[axis] for tried in points if min(ends) < tried[axis] <= max(ends)})
        return count

    def at(self, scale: Scale) -> ScaleState:
        """State of a scale; a new one is empty."""
        state = self.scales.get(scale)
        if state is None:
            state = self.scales[self._same.setdefault(scale, scale)] = ScaleState()
        return state

    def add(self, trial: Trial) -> None:
        """Add a trial that is in no job yet."""
        scale = self._same.setdefault(trial.scale, trial.scale)
        self.trials[trial.id] = replace(trial, scale=scale, run={})  # thousands of them are in memory
        self.at(scale).points[self.point(trial)] += 1

    def start(self, trial_ids: Iterable[str]) -> None:
        """Count trials as put into a job."""
        for trial_id in trial_ids:
            trial = self.trials[trial_id]
            self.at(trial.scale).open += 1
            self.started += 1
            self.started_flops += trial.flops

    def finish(self, trial_id: str, outcome: Outcome, *, was_open: bool, job: str) -> None:
        """Record the outcome of a trial.

        Args:
            was_open: True if `start` has counted it.
        """
        trial = self.trials[trial_id]
        state = self.at(trial.scale)
        if was_open:
            state.open -= 1
        else:
            self.started += 1
            self.started_flops += trial.flops
        self.outcomes[trial_id] = replace(outcome, groups=())  # thousands of them are in memory
        self.spend(trial_id, outcome.seconds)
        state.states[outcome.state] += 1
        state.cancelled += outcome.cause == CANCELLED
        if outcome.state == PRUNED:
            state.pruned.add(self.point(trial))
        elif outcome.state != FAILED:
            state.losses.setdefault(self.point(trial), []).append(self._loss(outcome))
        if outcome.state == DONE:
            state.seconds += outcome.seconds
            state.longest_s = max(state.longest_s, outcome.seconds)
            state.flops += trial.flops
        written = self.folder.outcome_path(trial_id).stat().st_mtime_ns
        self._finished.write(trial, outcome, written, job)

    def _loss(self, outcome: Outcome) -> float:
        """Return the loss of a trial that trained, to be minimized."""
        return math.inf if outcome.loss is None else self._objective.minimized(outcome.loss)

    def withdraw(self, trial_id: str, outcome: Outcome, *, job: str) -> None:
        """Replace the outcome of a trial that has no result after all.

        Args:
            outcome: the one that counts now, diverged or failed.
        """
        trial, before = self.trials[trial_id], self.outcomes[trial_id]
        state = self.at(trial.scale)
        state.states[before.state] -= 1
        if before.state != FAILED:
            state.losses[self.point(trial)].remove(self._loss(before))
            if not state.losses[self.point(trial)]:
                del state.losses[self.point(trial)]
        if before.state == DONE:
            state.seconds -= before.seconds
            state.flops -= trial.flops
        self.spend(trial_id, -before.seconds)
        state.bracketed_by = None
        self.started -= 1
        self.started_flops -= trial.flops
        self.finish(trial_id, outcome, was_open=False, job=job)

    def reopen(self, trial_id: str) -> None:
        """Forget the failed outcome of a reset trial.

        The trial counts as in no job then.
        """
        trial, outcome = self.trials[trial_id], self.outcomes.pop(trial_id)
        state = self.at(trial.scale)
        state.states[outcome.state] -= 1
        state.cancelled -= outcome.cause == CANCELLED
        self.spend(trial_id, -outcome.seconds)
        self.started -= 1
        self.started_flops -= trial.flops

    def remove_waiting(self, trial_ids: Collection[str]) -> None:
        """Remove trials from those that wait for a job."""
        removed = set(trial_ids)
        for scale in {self.trials[trial_id].scale for trial_id in removed}:
            waiting = self.at(scale).waiting
            self.at(scale).waiting = deque(trial_id for trial_id in waiting if trial_id not in removed)

    def spend(self, trial_id: str, seconds: float) -> None:
        """Add seconds of a trial to the device time."""
        self.device_s += seconds * self.at(self.trials[trial_id].scale).devices

    def seconds(self, trials: Iterable[Trial]) -> float | None:
        """Return the expected seconds of trials on one worker.

        All are of one scale; None before one of that scale is done.
        """
        flops, scale = 0.0, None
        for trial in trials:
            flops, scale = flops + trial.flops, self.at(trial.scale)
        return flops * scale.seconds / scale.flops if scale is not None and scale.flops else None


class EarlyEnds:
    """Comparison of the last steps of trials that are done.

    A trainer that breaks off at a NaN may exit with code 0, and its last number then looks like a result. Where the
    last step of a run is not declared, the trials of a scale show it: several of them end at the same step.

    Compared are trials of one scale. Where a batch size or the like is tuned, they also share its value.
    """

    def __init__(self) -> None:
        self._steps: dict[Hashable, dict[str, int]] = {}

    def add(self, trial: Trial, outcome: Outcome) -> dict[str, str]:
        """Add a trial that ended.

        Returns:
            The trials that ended early by all that is known now, with the reason; they are compared no more.
        """
        if outcome.state != DONE or outcome.imported or outcome.steps < 1:
            return {}
        steps = self._steps.setdefault(_group(trial), {})
        steps[trial.id] = outcome.steps
        reached = max((step for step, count in Counter(steps.values()).items() if count >= FEWEST_COMPLETE), default=0)
        early = {trial_id: step for trial_id, step in steps.items() if step < COMPLETE_SHARE * reached}
        for trial_id in early:
            del steps[trial_id]
        return {
            trial_id: f"it exited with code 0 at step {step}, where others of its scale reached step {reached}"
            for trial_id, step in early.items()
        }


def _group(trial: Trial) -> Hashable:
    """Return the scale, with the tuned values that change the steps."""
    values = [(name, value) for name, value in trial.tuned.items() if any(word in name.lower() for word in STEP_WORDS)]
    return trial.scale, tuple(values)
