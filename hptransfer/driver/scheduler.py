"""The scheduler: from the state of a sweep to new jobs.

It reads no clock and writes no file of the run folder: the driver's loop does both with what it returns.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hptransfer.config.sweep import FIRST
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import Job, Scale, Trial, digest, short
from hptransfer.driver.budget import BudgetUse
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.planning.plan import Plan, num_devices
from hptransfer.planning.search_space import Point, next_point
from hptransfer.planning.trial_set import TrialSet

# Points that a sampler proposes in one call: none of them learns from another.
PROPOSED_AT_ONCE = 16


class Sampler(Protocol):
    """The scheduler's port to a sampler, as `Studies` implements it."""

    def ask(self, scale: Scale, purpose: str) -> tuple[int, dict[str, float]]:
        """Propose values of the tuned hyperparameters, with the number of the proposal."""

    def bind(self, trial: Trial, number: int) -> None:
        """Tie a proposal to the trial that was made of it."""

    def discard(self, scale: Scale, purpose: str, number: int) -> None:
        """Close a proposal that repeats a known trial."""

    def start(self, trial: Trial) -> None:
        """Mark a trial as running."""


@dataclass(frozen=True)
class Start:
    """New trials and jobs.

    The trials are to be written before the jobs are submitted.
    """

    trials: Sequence[Trial]
    jobs: Sequence[Job]


class Scheduler:
    """The choice of the next trials of every scale.

    Args:
        read_run: the resolved configuration of a trial that is on disk, by the trial's id.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        trial_set: TrialSet,
        index: TrialIndex,
        budget: BudgetUse,
        sampler: Sampler,
        read_run: Callable[[str], Mapping[str, Any]],
    ) -> None:
        self._plan, self._trial_set, self._index = plan, trial_set, index
        self._budget, self._sampler, self._read_run = budget, sampler, read_run
        self._flops = {scale: plan.runner.size(plan.run(scale)).flops for scale in trial_set.scales}
        self._job_sizes: dict[Scale, int] = {}
        self._repeats: Counter[Scale] = Counter()
        self._unwritten: dict[str, Trial] = {}
        for scale in self._order():
            state = index.at(scale)
            if budget.limits_time:
                state.devices = num_devices(plan, scale)

    def _order(self) -> list[Scale]:
        """Scales by cost, descending; ascending under a budget.

        Costly scales first end the sweep soonest. Cheap ones first show the most within a budget.
        """
        return sorted(self._flops, key=lambda scale: self._flops[scale], reverse=not self._budget.bounded)

    def add(self, scale: Scale, points: Iterable[Point]) -> list[Trial]:
        """Make the trials of points at a scale, for all seeds.

        Returns:
            The trials that are new. They wait for a job from now on; the caller writes them.
        """
        purpose, seeds = self._trial_set.purpose, self._plan.seeds
        values_by_name = (dict(zip(self._plan.tuned, point, strict=True)) for point in points)
        trials = (self._plan.trial(scale, tuned, seed, purpose) for tuned in values_by_name for seed in seeds)
        return self._add_waiting([trial for trial in trials if trial.id not in self._index.trials])

    def _add_waiting(self, trials: list[Trial]) -> list[Trial]:
        for trial in trials:
            self._index.add(trial)
            self._index.at(trial.scale).waiting.append(trial.id)
        return trials

    def order_waiting(self, scale: Scale, points: Sequence[Point]) -> None:
        """Sort a scale's waiting trials by points and seeds.

        Trials that an earlier driver made are sorted too.
        """
        state, seeds = self._index.at(scale), self._plan.seeds
        ranks = {point: rank for rank, point in enumerate(points)}

        def rank(trial_id: str) -> tuple[int, int]:
            seed = self._index.trials[trial_id].seed
            return ranks.get(self._point(trial_id), len(ranks)), seeds.index(seed) if seed in seeds else len(seeds)

        state.waiting = deque(sorted(state.waiting, key=rank))

    def repeat_known_points(self) -> list[Trial]:
        """Make trials of earlier proposals for seeds that are new."""
        known = [trial for trial in self._index.trials.values() if trial.scale in self._flops]
        return [new for trial in known for new in self.add(trial.scale, [self._index.point(trial)])]

    def next_start(self, *, free: int, now: float, devices: int | None) -> Start:
        """Fill free slots within the budget.

        Waiting trials come first, then new points.

        Args:
            free: jobs that the launcher would accept.
            now: seconds since 1970.
            devices: slots of this machine, each of which idles without a job; None if a scheduler shares them.
        """
        jobs: list[Job] = []
        self._unwritten = {}
        for scale, state in list(self._index.scales.items()):
            if state.bracketed:  # most scales, in most ticks
                continue
            while len(jobs) < free:
                ids = self._next_trials(scale, devices)
                if not ids:
                    break
                jobs.append(self._start_job(scale, ids, now))
        return Start(list(self._unwritten.values()), jobs)

    def _start_job(self, scale: Scale, ids: list[str], now: float) -> Job:
        """Put trials into a job and count them as started."""
        trials = [self._index.trials[trial_id] for trial_id in ids]
        for trial in trials:
            self._sampler.start(trial)
        self._index.start(ids)
        job = Job(
            id=digest({"trials": ids, "time": now}),
            trials=ids,
            scale=scale,
            params=trials[0].params,
            flops=sum(trial.flops for trial in trials),
            seconds=self._index.seconds(trials),
            submitted=now,
        )
        self._budget.commit(job)
        return job

    def _next_trials(self, scale: Scale, devices: int | None) -> list[str]:
        """Remove the next job's trials from a scale's waiting ones.

        Returns:
            Their ids; empty if none may start.
        """
        if self._budget.needs_measurement(scale):
            return []
        if scale in self._flops and self._budget.allows(self._flops[scale]):
            self._propose(scale)
        waiting = self._index.at(scale).waiting
        size = min(self._job_size(waiting[0]), self._fair_share(devices)) if waiting else 0
        if size and self._needs_pilot(scale):
            size = 0 if self._awaits_pilot(scale) else 1
            self._put_middle_first(scale)
        ids: list[str] = []
        while waiting and len(ids) < size:
            *begun, last = (self._index.trials[trial_id] for trial_id in (*ids, waiting[0]))
            if not self._budget.allows(*(trial.flops for trial in (*begun, last)), begun=begun):
                break
            ids.append(waiting.popleft())
        return ids

    def _job_size(self, trial_id: str) -> int:
        """Maximum number of trials in a job of this trial's scale."""
        scale = self._index.trials[trial_id].scale
        if scale not in self._job_sizes:
            new = self._unwritten.get(trial_id)
            self._job_sizes[scale] = self._plan.job_size(new.run if new else self._read_run(trial_id))
        return self._job_sizes[scale]

    def _fair_share(self, devices: int | None) -> int:
        """Maximum number of trials in a job so that no device idles.

        All trials count, finished or not: the same sweep makes the same jobs.
        """
        trials = len(self._index.trials)
        if devices is None or self._trial_set.sampled:  # a sampler proposes more when it is asked
            return trials
        return math.ceil(trials / devices)

    def _needs_pilot(self, scale: Scale) -> bool:
        """True if the pilot trial has to succeed first."""
        return self._plan.config.stage == FIRST and not self._index.at(scale).succeeded

    def _awaits_pilot(self, scale: Scale) -> bool:
        """True if the scale's pilot trial runs or has failed."""
        return self._needs_pilot(scale) and bool(self._index.at(scale).open or self._index.at(scale).failed)

    def _put_middle_first(self, scale: Scale) -> None:
        """Move a waiting trial of the middle point to the front."""
        waiting = self._index.at(scale).waiting
        points = sorted({self._point(trial_id) for trial_id in waiting})
        first = next(trial_id for trial_id in waiting if self._point(trial_id) == points[len(points) // 2])
        waiting.remove(first)
        waiting.appendleft(first)

    def _point(self, trial_id: str) -> Point:
        return self._index.point(self._index.trials[trial_id])

    def scales_with_failed_pilot(self) -> list[Scale]:
        """Scales whose trials wait because the pilot trial failed."""
        pairs = self._index.scales.items()
        waiting = [(scale, state) for scale, state in pairs if state.waiting and self._needs_pilot(scale)]
        return [scale for scale, state in waiting if state.failed and not state.open]

    def scales_with_running_pilot(self) -> list[Scale]:
        """Scales whose pilot trial is in a job."""
        return [scale for scale, state in self._index.scales.items() if state.open and self._needs_pilot(scale)]

    def _propose(self, scale: Scale) -> None:
        """Add points to a scale without waiting trials.

        They are the sampler's, or beyond an edge.
        """
        state = self._index.at(scale)
        if state.waiting or state.closed or self._awaits_pilot(scale):
            return
        if self._trial_set.sampled:
            room = self._trial_set.num_points - len(state.points) - self._repeats[scale]
            size = min(PROPOSED_AT_ONCE, self._plan.job_size(self._plan.run(scale))) if room > 0 else 0
            for _ in range(min(room, 1 if self._needs_pilot(scale) else size)):
                self._ask_sampler(scale)
        elif not state.open:
            point = self.extension(scale)
            if point is not None:
                self._add_unwritten(self.add(scale, [point]))

    def _add_unwritten(self, trials: Iterable[Trial]) -> None:
        self._unwritten |= {trial.id: trial for trial in trials}

    def _ask_sampler(self, scale: Scale) -> None:
        """Make the trials of one point that the sampler proposes."""
        number, tuned = self._sampler.ask(scale, self._trial_set.purpose)
        trial = self._plan.trial(scale, tuned, self._plan.seeds[0], self._trial_set.purpose)
        if trial.id in self._index.trials:  # such as the bound of a range, which some samplers propose again
            self._sampler.discard(scale, self._trial_set.purpose, number)
            self._repeats[scale] += 1
            return
        self._sampler.bind(trial, number)
        self._add_unwritten(self._add_waiting([trial]))
        self._add_unwritten(self.add(scale, [self._index.point(trial)]))

    def extension(self, scale: Scale) -> Point | None:
        """Return the next point that would bracket the scale's optimum.

        It is None if there is none within the bounds on either side.
        """
        state = self._index.at(scale)
        point = next_point(state.mean_losses(), self._trial_set.bounds)
        if point is not None and (point in state.points or self._refusal(scale, point)):
            point = None  # its trials have failed, or would
        state.bracketed_by = state.succeeded if point is None else None
        return point

    def why_no_extension(self, scale: Scale) -> str:
        """Explain why no point beyond the edge is tried."""
        state = self._index.at(scale)
        point = next_point(state.mean_losses(), self._trial_set.bounds)
        if point is not None and point in state.points:
            return f"{', '.join(map(short, point))} failed"
        refusal = self._refusal(scale, point) if point is not None else None
        return refusal or "nothing beyond is tried (space.*.extend)"

    def _refusal(self, scale: Scale, point: Point) -> str | None:
        """The rule that a point breaks, such as one of a schedule."""
        try:
            self._plan.runner.size(self._plan.run(scale, dict(zip(self._plan.tuned, point, strict=True))))
        except ConfigError as error:
            return str(error)
        return None
