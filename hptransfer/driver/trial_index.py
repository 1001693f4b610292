"""What a driver knows of its trials, kept by scale so that no question of one scale reads all of them."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from hptransfer.core.records import CANCELLED, DIVERGED, DONE, FAILED, PRUNED, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.outcome_index import OutcomeIndex
from hptransfer.planning.search_space import Point


@dataclass
class ScaleState:
    """Trials of one scale.

    Attributes:
        waiting: trials that are in no job yet, in the order in which they are to be trained.
        values: trials by what was tuned.
        losses: of finished trials by what was tuned; infinite where one diverged.
        pruned: settings of which a trial was stopped early.
        open: trials that are in a job and have no outcome.
        states: outcomes by state.
        cancelled: of the failed ones.
        stopped: nothing further is to be tried while this driver runs.
        seconds, flops: of the trials that are done.
        devices: that a trial of it holds while it trains.
        bracketed_by: how many had succeeded when no further setting was wanted; None while one is, or nobody has asked.
    """

    waiting: deque[str] = field(default_factory=deque)
    values: Counter[Point] = field(default_factory=Counter)
    losses: dict[Point, list[float]] = field(default_factory=dict)
    pruned: set[Point] = field(default_factory=set)
    open: int = 0
    states: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    stopped: bool = False
    seconds: float = 0.0
    flops: float = 0.0
    devices: int = 1
    bracketed_by: int | None = None

    @property
    def bracketed(self) -> bool:
        """Whether nothing of it waits, and nothing has come since no further setting was wanted."""
        return self.bracketed_by is not None and not self.waiting and self.bracketed_by == self.succeeded

    @property
    def failed(self) -> int:
        """Trials that failed by themselves."""
        return self.states[FAILED] - self.cancelled

    @property
    def curbed(self) -> bool:
        """Whether it gets no new values: whoever cancels something of a scale wants less of it, not more."""
        return self.stopped or self.cancelled > 0

    @property
    def succeeded(self) -> int:
        """Trials that trained; one that diverged did, and one that was stopped as it was behind."""
        return self.states[DONE] + self.states[DIVERGED] + self.states[PRUNED]

    def mean_losses(self) -> dict[Point, float]:
        """Mean loss over seeds by setting; infinite where a seed diverged; failed trials left out.

        A setting of which a seed was pruned is worse than the best, nobody knows by how much: it counts as just worse
        than the worst that was trained to its end.
        """
        means = {value: fmean(repeats) for value, repeats in self.losses.items() if value not in self.pruned}
        worst = max((loss for loss in means.values() if math.isfinite(loss)), default=math.inf)
        return means | dict.fromkeys(self.pruned, math.nextafter(worst, math.inf))


class TrialIndex:
    """All trials of one campaign, with what has become of them.

    Attributes:
        trials: by id, without their configurations, which are in their folders.
        device_s: seconds of devices, as measured so far, of attempts without an outcome too.
    """

    def __init__(self, folder: RunFolder, tuned: Sequence[str]) -> None:
        self.trials: dict[str, Trial] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.scales: dict[Scale, ScaleState] = {}
        self.device_s = 0.0
        self.started = 0
        self.started_flops = 0.0
        self.folder, self._tuned = folder, tuple(tuned)
        self._finished = OutcomeIndex(folder)
        self._same: dict[Scale, Scale] = {}

    def setting(self, trial: Trial) -> Point:
        """What was tuned, in the order of the sweep's space."""
        return tuple(trial.tuned[name] for name in self._tuned)

    def steps(self, one: Trial, other: Trial) -> int:
        """From one trial's setting to that of another of its scale, by the values that are tried there."""
        settings = self.at(one.scale).values
        count = 0
        for place, ends in enumerate(zip(self.setting(one), self.setting(other), strict=True)):
            count += len({tried[place] for tried in settings if min(ends) < tried[place] <= max(ends)})
        return count

    def at(self, scale: Scale) -> ScaleState:
        found = self.scales.get(scale)
        if found is None:
            found = self.scales[self._same.setdefault(scale, scale)] = ScaleState()
        return found

    def add(self, trial: Trial) -> None:
        """Takes up a trial, which is in no job yet for all that is known here."""
        scale = self._same.setdefault(trial.scale, trial.scale)
        self.trials[trial.id] = replace(trial, scale=scale, run={})  # thousands of them are in memory
        self.at(scale).values[self.setting(trial)] += 1

    def start(self, trial_ids: Iterable[str]) -> None:
        """Counts trials as put into a job."""
        for trial_id in trial_ids:
            trial = self.trials[trial_id]
            self.at(trial.scale).open += 1
            self.started += 1
            self.started_flops += trial.flops

    def finish(self, trial_id: str, outcome: Outcome, *, was_open: bool, job: str) -> None:
        """Takes up how a trial ended.

        Args:
            was_open: `start` has counted it.
        """
        trial = self.trials[trial_id]
        scale = self.at(trial.scale)
        if was_open:
            scale.open -= 1
        else:
            self.started += 1
            self.started_flops += trial.flops
        self.outcomes[trial_id] = replace(outcome, groups=())  # thousands of them are in memory
        self.spend(trial_id, outcome.seconds)
        scale.states[outcome.state] += 1
        scale.cancelled += outcome.cause == CANCELLED
        if outcome.state == PRUNED:
            scale.pruned.add(self.setting(trial))
        elif outcome.state != FAILED:
            loss = math.inf if outcome.loss is None else outcome.loss
            scale.losses.setdefault(self.setting(trial), []).append(loss)
        if outcome.state == DONE:
            scale.seconds += outcome.seconds
            scale.flops += trial.flops
        written = self.folder.outcome_path(trial_id).stat().st_mtime_ns
        self._finished.write(trial, outcome, written, job)

    def reopen(self, trial_id: str) -> None:
        """Forgets the failed outcome of a trial that was taken back; it is in no job then."""
        trial, outcome = self.trials[trial_id], self.outcomes.pop(trial_id)
        scale = self.at(trial.scale)
        scale.states[outcome.state] -= 1
        scale.cancelled -= outcome.cause == CANCELLED
        self.spend(trial_id, -outcome.seconds)
        self.started -= 1
        self.started_flops -= trial.flops

    def forget_waiting(self, trial_ids: Collection[str]) -> None:
        """Takes trials out of the lists of those that are to be put into a job."""
        gone = set(trial_ids)
        for scale in {self.trials[trial_id].scale for trial_id in gone}:
            waiting = self.at(scale).waiting
            self.at(scale).waiting = deque(trial_id for trial_id in waiting if trial_id not in gone)

    def spend(self, trial_id: str, seconds: float) -> None:
        """Counts time that went into a trial."""
        self.device_s += seconds * self.at(self.trials[trial_id].scale).devices

    def seconds(self, trials: Iterable[Trial]) -> float | None:
        """Time that trials of one scale will take on one worker, by those of the scale that are done."""
        flops, scale = 0.0, None
        for trial in trials:
            flops, scale = flops + trial.flops, self.at(trial.scale)
        return flops * scale.seconds / scale.flops if scale is not None and scale.flops else None
