"""The driver: level-triggered, one a run folder. Kill it at any time and start it again.

`tick` reads what is on disk, tells Optuna and the tracker, asks for more, and submits. Everything
that matters is in the trial folders before it is anywhere else.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import fmean

from hptransfer.core.bracket import next_value
from hptransfer.core.errors import StoppedError
from hptransfer.core.files import LockedError, RunFolder, disk_errors, lock, locked_by, write_json
from hptransfer.core.records import DIVERGED, DONE, FAILED, KILLED, SWEEP, Job, Outcome, Scale, Trial, digest, short
from hptransfer.sweep.config import Budget
from hptransfer.sweep.launchers._base import Ended, Launcher
from hptransfer.sweep.plan import Plan
from hptransfer.sweep.progress import Progress, progress
from hptransfer.sweep.study import Studies
from hptransfer.sweep.trackers._base import Background
from hptransfer.sweep.worker import count_attempt

WAIT_S = 0.25
SHOW_S = 0.5


@dataclass(frozen=True)
class Campaign:
    """What a driver is to have trained: values at scales.

    Attributes:
        values: tried at every scale; empty if the sampler chooses.
        points: values a scale tries if the sampler chooses.
        extend: further values on either side while the best is at that edge.
    """

    purpose: str
    scales: tuple[Scale, ...]
    values: tuple[float, ...]
    points: int
    extend: int

    @classmethod
    def sweep(cls, plan: Plan) -> Campaign:
        chosen = plan.config.sampler.points
        return cls(
            purpose=SWEEP,
            scales=plan.scales,
            values=() if chosen else plan.values,
            points=plan.points,
            extend=0 if chosen else plan.config.space[plan.tuned].extend,
        )


@dataclass
class Report:
    """How a campaign ended.

    Attributes:
        missing: what the budget left out, one line a scale.
        unbracketed: scales whose best value is still at an edge.
    """

    progress: Progress
    missing: list[str] = field(default_factory=list)
    unbracketed: list[str] = field(default_factory=list)
    tracker_problem: str | None = None


class Driver:
    """Runs one campaign in one run folder. The caller holds the driver's lock (see `driving`)."""

    def __init__(
        self,
        plan: Plan,
        campaign: Campaign,
        folder: RunFolder,
        launcher: Launcher,
        tracker: Background,
        show: Callable[[Progress], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plan, self._campaign, self._folder = plan, campaign, folder
        self._launcher, self._tracker, self._show = launcher, tracker, show
        self._interrupted = interrupted
        self._budget: Budget = plan.config.budget
        self._trials: dict[str, Trial] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._jobs: dict[str, list[str]] = {}
        self._foreign: set[str] = set()
        self._repeats: Counter[Scale] = Counter()
        self._shown = -math.inf
        self._flops = {scale: plan.runner.size(plan.run(scale)).flops for scale in campaign.scales}
        self._waiting: dict[Scale, deque[str]] = {scale: deque() for scale in self._order()}
        low, high = min(plan.values), max(plan.values)
        log = {plan.tuned: plan.config.space[plan.tuned].log}
        self._studies = Studies(folder.journal, plan.config.sampler, {plan.tuned: (low, high)}, log)

    def _order(self) -> list[Scale]:
        """Costly scales first, which ends soonest; under a budget cheap ones, which says most."""
        return sorted(self._flops, key=lambda scale: self._flops[scale], reverse=not self._bounded)

    @property
    def _bounded(self) -> bool:
        return any(limit is not None for limit in vars(self._budget).values())

    def run(self) -> Report:
        """Ticks until everything that was asked for is trained, or the budget is spent."""
        with disk_errors(self._folder):
            self._recover()
            while not self._tick():
                pass
        return self._report()

    def _recover(self) -> None:
        """Takes up what is on disk: outcomes, trials that were never finished, workers that live on."""
        for trial in self._folder.read_trials():
            if trial.purpose == self._campaign.purpose:
                self._trials[trial.id] = trial
        for trial in list(self._trials.values()):
            outcome = self._folder.read_outcome(trial.id)
            if outcome:
                self._outcomes[trial.id] = outcome
                self._tracker.log(trial, outcome)
        self._studies.sync((trial, self._outcomes.get(trial.id)) for trial in self._trials.values())
        for trial in self._trials.values():
            if trial.id not in self._outcomes:
                self._queue(trial.id)
        for scale in self._campaign.scales:
            for value in self._campaign.values:
                self._add(scale, value)
        if not self._campaign.values:
            self._repeat_known_values()

    def _queue(self, trial_id: str) -> None:
        """Puts an unfinished trial where it belongs: waiting, or with the worker that holds it."""
        if locked_by(self._folder.lease(trial_id)):
            self._foreign.add(trial_id)
            self._tracker.started(trial_id)
        else:
            self._waiting.setdefault(self._trials[trial_id].scale, deque()).append(trial_id)

    def _add(self, scale: Scale, value: float) -> None:
        """Makes the trials of one value at a scale, one a seed, unless there are."""
        for seed in self._plan.seeds:
            trial = self._plan.trial(scale, {self._plan.tuned: value}, seed, self._campaign.purpose)
            if trial.id not in self._trials:
                self._folder.write_trial(trial)
                self._trials[trial.id] = trial
                self._studies.enqueue(trial)
                self._queue(trial.id)

    def _repeat_known_values(self) -> None:
        """Gives values that a sampler chose earlier the seeds that the sweep has gained since."""
        for trial in list(self._trials.values()):
            if trial.scale in self._campaign.scales:
                self._add(trial.scale, trial.tuned[self._plan.tuned])

    def _tick(self) -> bool:
        """One round; True when there is nothing left to do."""
        if self._interrupted():
            raise KeyboardInterrupt
        self._submit()
        if time.monotonic() - self._shown > SHOW_S:
            self._show(self._progress())
            self._shown = time.monotonic()
        if not self._jobs and not self._foreign:
            return True
        for ended in self._launcher.wait(WAIT_S):
            self._end(ended)
        self._look_at_foreign()
        return False

    def _submit(self) -> None:
        while len(self._jobs) < self._launcher.slots:
            trials = self._next_trials()
            if not trials:
                return
            for trial_id in trials:
                self._studies.start(self._trials[trial_id])
                self._tracker.started(trial_id)
            some = [self._trials[trial_id] for trial_id in trials]
            job = Job(
                id=digest({"trials": trials, "time": time.time()}),
                trials=trials,
                scale=some[0].scale,
                params=some[0].params,
                flops=sum(trial.flops for trial in some),
                submitted=time.time(),
            )
            self._folder.write_job(job)
            self._jobs[job.id] = trials
            self._launcher.submit([job])

    def _next_trials(self) -> list[str]:
        """The next stack of one scale, as far as the budget goes: waiting trials, then new values."""
        for scale, waiting in self._waiting.items():
            if scale in self._flops and self._affordable(self._flops[scale]):
                self._ask(scale)
            stack: list[str] = []
            size = self._plan.runner.stack_size(self._trials[waiting[0]].run) if waiting else 0
            while waiting and len(stack) < size:
                flops = [self._trials[trial_id].flops for trial_id in (*stack, waiting[0])]
                if not self._affordable(*flops):
                    break
                stack.append(waiting.popleft())
            if stack:
                return stack
        return []

    def _ask(self, scale: Scale) -> None:
        """Adds values to a scale that has nothing waiting: the sampler's, or beyond an edge."""
        if self._waiting[scale]:
            return
        if not self._campaign.values:
            room = self._campaign.points - len(self._values(scale)) - self._repeats[scale]
            size = self._plan.runner.stack_size(self._plan.run(scale))
            for _ in range(min(room, size)):
                self._suggest(scale)
        elif not self._busy(scale):
            value = self._extension(scale)
            if value is not None:
                self._add(scale, value)

    def _suggest(self, scale: Scale) -> None:
        """Makes trials of one value that the sampler chooses."""
        number, tuned = self._studies.ask(scale, self._campaign.purpose)
        trial = self._plan.trial(scale, tuned, self._plan.seeds[0], self._campaign.purpose)
        if trial.id in self._trials:  # the bound of a range, say, which some samplers choose again
            self._studies.discard(scale, self._campaign.purpose, number)
            self._repeats[scale] += 1
            return
        self._studies.bind(trial, number)
        self._folder.write_trial(trial)
        self._trials[trial.id] = trial
        self._queue(trial.id)
        self._add(scale, tuned[self._plan.tuned])

    def _extension(self, scale: Scale) -> float | None:
        """The next value that would bracket the scale's optimum, within the bound on either side."""
        losses = self._losses(scale)
        value = next_value(losses) if len(losses) >= 3 else None
        low, high = min(self._campaign.values), max(self._campaign.values)
        beyond = [tried for tried in losses if (tried < low if value and value < low else tried > high)]
        if value is None or value in losses or value > self._plan.config.space[self._plan.tuned].largest:
            return None
        return None if len(beyond) >= self._campaign.extend else value

    def _values(self, scale: Scale) -> set[float]:
        return {trial.tuned[self._plan.tuned] for trial in self._trials.values() if trial.scale == scale}

    def _losses(self, scale: Scale) -> dict[float, float]:
        """Mean loss over seeds by value; infinite where a seed diverged; failed trials left out."""
        losses: dict[float, list[float]] = {}
        for trial_id, outcome in self._outcomes.items():
            trial = self._trials[trial_id]
            if trial.scale == scale and outcome.state in (DONE, DIVERGED):
                loss = math.inf if outcome.loss is None else outcome.loss
                losses.setdefault(trial.tuned[self._plan.tuned], []).append(loss)
        return {value: fmean(repeats) for value, repeats in losses.items()}

    def _busy(self, scale: Scale) -> bool:
        open_trials = [*self._foreign, *(trial for trials in self._jobs.values() for trial in trials)]
        return any(self._trials[trial_id].scale == scale for trial_id in open_trials)

    def _end(self, ended: Ended) -> None:
        """Takes up what a job left behind, finished or not."""
        for trial_id in self._jobs.pop(ended.job):
            if not self._take_outcome(trial_id):
                if ended.cause:
                    self._count_death(trial_id, ended.detail)
                if trial_id not in self._outcomes:
                    self._queue(trial_id)
        if ended.stopped:
            raise StoppedError(
                f"stopped: a worker could not write: {ended.stopped}; finished trials are kept: make room, "
                "then run the same command again"
            )

    def _take_outcome(self, trial_id: str) -> bool:
        outcome = self._folder.read_outcome(trial_id)
        if outcome is None:
            return False
        self._outcomes[trial_id] = outcome
        self._studies.tell(self._trials[trial_id], outcome)
        self._tracker.log(self._trials[trial_id], outcome)
        return True

    def _count_death(self, trial_id: str, how: str) -> None:
        deaths = count_attempt(self._folder, trial_id, add=1)
        if deaths >= self._plan.config.launcher.max_attempts:
            error = f"its worker died {deaths} times while training it, last {how}"
            outcome = Outcome(state=FAILED, error=error, cause=KILLED, attempts=deaths)
            write_json(self._folder.outcome_path(trial_id), outcome.to_json())
            self._take_outcome(trial_id)

    def _look_at_foreign(self) -> None:
        """Trials that a worker of an earlier driver holds: done, still held, or free again."""
        for trial_id in sorted(self._foreign):
            if self._take_outcome(trial_id):
                self._foreign.discard(trial_id)
            elif not locked_by(self._folder.lease(trial_id)):
                self._foreign.discard(trial_id)
                self._queue(trial_id)

    def _affordable(self, *flops: float) -> bool:
        """Whether the budget allows trials of these costs to be started."""
        if not self._bounded:
            return True
        started = [*self._outcomes, *self._foreign, *(t for trials in self._jobs.values() for t in trials)]
        hours = sum(outcome.seconds for outcome in self._outcomes.values()) / 3600
        spent = sum(self._trials[trial_id].flops for trial_id in started)
        budget = self._budget
        return (
            (budget.trials is None or len(started) + len(flops) <= budget.trials)
            and (budget.flops is None or spent + sum(flops) <= budget.flops)
            and (budget.device_hours is None or hours < budget.device_hours)
        )

    def _progress(self) -> Progress:
        running = {trial: True for trials in self._jobs.values() for trial in trials} | dict.fromkeys(self._foreign)
        rows = ((trial, self._outcomes.get(trial.id)) for trial in self._trials.values())
        return progress(rows, running, self._launcher.slots)

    def _report(self) -> Report:
        report = Report(self._progress())
        for scale, waiting in self._waiting.items():
            short_of = max(0, self._campaign.points - len(self._values(scale))) if not self._campaign.values else 0
            if waiting or short_of:
                report.missing.append(f"{scale.name}: {len(waiting) + short_of * len(self._plan.seeds)} trials not run")
            elif (edge := self._edge(scale)) is None:
                continue
            elif self._campaign.values and (value := self._extension(scale)) is not None:
                report.missing.append(f"{edge}; {short(value)} was to be next")
            else:
                report.unbracketed.append(edge)
        return report

    def _edge(self, scale: Scale) -> str | None:
        losses = self._losses(scale)
        if len(losses) < 3 or next_value(losses) is None:
            return None
        best = min(losses, key=lambda value: losses[value])
        return f"{scale.name}: best {self._plan.tuned} {short(best)} of {short(min(losses))} to {short(max(losses))}"


@contextmanager
def driving(folder: RunFolder) -> Iterator[None]:
    """Holds the run's driver lock.

    Raises:
        StoppedError: another driver holds it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder.driver_lock, wait_s=0.5))
        except LockedError as error:
            pid, host = error.holder["pid"], error.holder["host"]
            since = time.strftime("%H:%M:%S", time.localtime(error.holder["since"]))
            raise StoppedError(
                f"{folder.path} is being driven by process {pid} on {host} since {since}; watch it with "
                f"`hptransfer status {folder.path}`, or end that process first"
            ) from None
        yield
