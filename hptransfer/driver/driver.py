"""The driver: level-triggered, one a run folder. Kill it at any time and start it again.

`tick` reads what is on disk, tells Optuna and the tracker, asks for more, and submits. Everything
that matters is in the trial folders before it is anywhere else.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from hptransfer.config.sweep import FIRST
from hptransfer.core.attempts import reset_trial
from hptransfer.core.errors import ConfigError, StoppedError
from hptransfer.core.io import read_jsonl, write_json
from hptransfer.core.locks import LockedError, lock
from hptransfer.core.records import PRUNED, Job, Outcome, Scale, Trial, digest, short
from hptransfer.core.run_folder import RunFolder, disk_errors
from hptransfer.driver.budget import BudgetUse
from hptransfer.driver.driver_state import HELD_BACK, DriverState, read_states
from hptransfer.driver.halving import SuccessiveHalving
from hptransfer.driver.jobs import JobManager, write_in_parallel
from hptransfer.driver.optuna_studies import LastPoint, Studies
from hptransfer.driver.progress import Progress, count_progress
from hptransfer.driver.requests import carry_out, read_requests
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.launchers import Launcher
from hptransfer.planning.plan import Plan, num_devices
from hptransfer.planning.search_space import Point, next_point, unbracketed_edges
from hptransfer.planning.trial_set import TrialSet, search_bounds
from hptransfer.trackers import BackgroundTracker

WAIT_S = 0.25
REPORT_S = 0.5
# Counting thousands of trials takes longer: at most a twentieth of the time goes into it.
REPORT_SHARE = 20
# Settings that a sampler chooses at a time: of those that it chooses together none learns from another.
SUGGESTED_AT_ONCE = 16


@dataclass
class DriverSummary:
    """How a campaign ended.

    Attributes:
        missing: what the budget left out, one line a scale.
        unbracketed: scales whose best value is still at an edge.
        held: scales whose first trial failed, which holds back their others.
    """

    progress: Progress
    missing: list[str] = field(default_factory=list)
    unbracketed: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


class Driver:
    """Runs one campaign in one run folder. The caller holds the driver's lock (see `driving`)."""

    def __init__(
        self,
        plan: Plan,
        campaign: TrialSet,
        folder: RunFolder,
        launcher: Launcher,
        tracker: BackgroundTracker,
        show: Callable[[Progress], None],
        interrupted: Callable[[], bool] = lambda: False,
        blocked: Callable[[str, Progress], None] = lambda why, progress: None,
    ) -> None:
        self._plan, self._campaign, self._folder = plan, campaign, folder
        self._launcher, self._tracker, self._show = launcher, tracker, show
        self._interrupted = interrupted
        self._book = TrialIndex(folder, plan.tuned)
        self._spending = BudgetUse(plan.config.budget, self._book)
        retry, attempts = plan.config.retry, plan.config.launcher.max_attempts
        self._jobs = JobManager(folder, launcher, self._book, retry, attempts, self._on_trial_end)
        self._repeats: Counter[Scale] = Counter()
        self._show_at = -math.inf
        self._rungs: SuccessiveHalving | None = None
        if campaign.halving.share is not None:
            tokens = {scale: plan.run(scale)["tokens"] for scale in campaign.scales}
            self._rungs = SuccessiveHalving(folder, campaign.halving, tokens, self._book.steps)
        self._just_ended: list[Trial] = []
        self._notes = DriverState(folder, plan.config.hooks.blocked_after_s, blocked)
        self._flops = {scale: plan.runner.size(plan.run(scale)).flops for scale in campaign.scales}
        self._job_sizes: dict[Scale, int] = {}
        for scale in self._order():
            at = self._book.at(scale)
            if self._spending.of_time:
                at.devices = num_devices(plan, scale)
        tried = {one.name: (one.low, one.high) for one in search_bounds(plan)}
        log = {key: tuned.log for key, tuned in plan.config.space.items()}
        self._studies = Studies(folder.journal, plan.config.sampler, tried, log)

    def _order(self) -> list[Scale]:
        """Costly scales first, which ends soonest; under a budget cheap ones, which says most."""
        return sorted(self._flops, key=lambda scale: self._flops[scale], reverse=not self._spending.bounded)

    def run(self) -> DriverSummary:
        """Ticks until everything that was asked for is trained, or the budget is spent."""
        with disk_errors(self._folder):
            self._recover()
            while not self._tick():
                pass
            self._notes.write(self._holds(), self._jobs.delayed)
        return self._report()

    def _recover(self) -> None:
        """Takes up what is on disk: outcomes, trials that were never finished, jobs that live on."""
        changed = []
        for trial in self._folder.each_trial():
            if trial.purpose == self._campaign.purpose:
                self._reset_pruned(trial)
                now = self._as_planned_now(trial)
                self._book.add(now)
                changed += [now] if now != trial else []
        write_in_parallel(self._folder.write_trial, changed)
        self._studies.sync(self._as_on_disk())
        self._jobs.restore()
        for trial in self._book.trials.values():
            if trial.id in self._book.outcomes:
                continue
            if self._jobs.job_of(trial.id):
                self._tracker.started(trial.id)
            else:
                self._book.at(trial.scale).waiting.append(trial.id)
        for scale, settings in self._campaign.settings.items():
            self._add(scale, settings)
            self._order_waiting(scale, settings)
        if self._campaign.chosen:
            self._repeat_known_settings()

    def _reset_pruned(self, trial: Trial) -> None:
        """Lets a trial that successive halving has stopped be trained to its end, if that is off now."""
        behind = self._folder.behind_path(trial.id)
        if self._plan.config.halving.share is not None or not behind.exists():
            return
        outcome = self._folder.read_outcome(trial.id)
        if outcome is not None and outcome.state == PRUNED:
            reset_trial(self._folder, trial.id, outcome, forgive=True)
        behind.unlink(missing_ok=True)

    def _order_waiting(self, scale: Scale, settings: Sequence[Point]) -> None:
        """Has trials wait in the order of the settings and seeds, also those that an earlier driver made."""
        at, seeds = self._book.at(scale), self._plan.seeds
        places = {setting: place for place, setting in enumerate(settings)}

        def place(trial_id: str) -> tuple[int, int]:
            seed = self._book.trials[trial_id].seed
            return places.get(self._setting(trial_id), len(places)), seeds.index(seed) if seed in seeds else len(seeds)

        at.waiting = deque(sorted(at.waiting, key=place))

    def _as_on_disk(self) -> Iterator[tuple[Trial, Outcome | None, LastPoint]]:
        for trial in self._book.trials.values():
            outcome = self._folder.read_outcome(trial.id)
            yield trial, outcome, self._reached(trial, outcome)

    def _reached(self, trial: Trial, outcome: Outcome | None) -> LastPoint:
        """The last point of a pruned trial's curve."""
        if outcome is None or outcome.state != PRUNED:
            return None
        points = [(point["step"], point["loss"]) for point in read_jsonl(self._folder.curve_path(trial.id))]
        return points[-1] if points else None

    def _as_planned_now(self, trial: Trial) -> Trial:
        """A trial as the sweep says now, where it has still to be trained.

        What changes no number of a trial, such as its time limit, changes no id either.
        """
        if trial.scale not in self._flops or self._folder.outcome_path(trial.id).exists():
            return trial
        now = self._plan.trial(trial.scale, trial.tuned, trial.seed, trial.purpose)
        return now if now.id == trial.id else trial

    def _on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        self._studies.tell(trial, outcome, self._reached(trial, outcome))
        self._tracker.log(trial, outcome)
        self._just_ended.append(trial)

    def _add_trials(self, trials: Sequence[Trial]) -> None:
        """Takes up new trials."""
        write_in_parallel(self._folder.write_trial, trials)
        for trial in trials:
            self._book.add(trial)
            self._book.at(trial.scale).waiting.append(trial.id)

    def _add(self, scale: Scale, settings: Iterable[Point]) -> None:
        """Makes the trials of some settings at a scale, one a seed, unless there are."""
        purpose, seeds = self._campaign.purpose, self._plan.seeds
        named = (dict(zip(self._plan.tuned, setting, strict=True)) for setting in settings)
        trials = (self._plan.trial(scale, tuned, seed, purpose) for tuned in named for seed in seeds)
        self._add_trials([trial for trial in trials if trial.id not in self._book.trials])

    def _repeat_known_settings(self) -> None:
        """Gives settings that a sampler chose earlier the seeds that the sweep has gained since."""
        for trial in list(self._book.trials.values()):
            if trial.scale in self._campaign.scales:
                self._add(trial.scale, [self._book.setting(trial)])

    def _tick(self) -> bool:
        """One round; True when there is nothing left to do."""
        if self._interrupted():
            raise KeyboardInterrupt
        self._handle_requests()
        if self._spending.allows():
            self._jobs.submit_due()
        self._jobs.submit(self._new_jobs())
        self._report_progress()
        if not self._jobs.in_flight:
            if not self._jobs.delayed or not self._spending.allows():
                return True
            time.sleep(WAIT_S)
        else:
            for ended in self._launcher.wait(WAIT_S):
                self._jobs.end(ended)
        self._jobs.check_adopted()
        return False

    def _handle_requests(self) -> None:
        """Takes up what other shells ask for; a request that takes longer keeps later ones waiting."""
        for path, request in read_requests(self._folder):
            if not carry_out(request, self._book, self._jobs):
                return
            path.unlink(missing_ok=True)

    def _report_progress(self) -> None:
        """Shows where things stand, and writes it down, every now and then."""
        if time.monotonic() < self._show_at:
            return
        began = time.monotonic()
        self._stop_behind()
        progress = self._progress()
        self._show(progress)
        self._notes.write(self._holds(), self._jobs.delayed)
        self._notes.look_for_blocks(self._jobs.submitted, progress)
        took = time.monotonic() - began
        self._show_at = time.monotonic() + max(REPORT_S, REPORT_SHARE * took)

    def _stop_behind(self) -> None:
        """Has trials stop that are behind others of their scale; their workers see it at the next point of a curve."""
        ended, self._just_ended = self._just_ended, []
        if self._rungs is None:
            return
        running = [self._book.trials[trial_id] for trial_id in self._jobs.open_trials()]
        of_scales = [trial for trial in (*ended, *running) if trial.scale in self._flops]
        for trial_id, point in self._rungs.behind(of_scales).items():
            path = self._folder.behind_path(trial_id)
            if trial_id not in self._book.outcomes and not path.exists():
                write_json(path, {"tokens": point["tokens"], "loss": point["loss"]})

    def _new_jobs(self) -> list[Job]:
        """A job for every free slot, as far as the budget goes: waiting trials, then new values."""
        jobs: list[Job] = []
        now = time.time()
        if self._spending.of_time:
            self._spending.in_flight(self._jobs.expected_s())
        free = self._jobs.free
        for scale, at in list(self._book.scales.items()):
            if at.bracketed:  # most scales, at most ticks
                continue
            while len(jobs) < free:
                ids = self._next_trials(scale)
                if not ids:
                    break
                trials = [self._book.trials[trial_id] for trial_id in ids]
                for trial in trials:
                    self._studies.start(trial)
                    self._tracker.started(trial.id)
                self._book.start(ids)
                job = Job(
                    id=digest({"trials": ids, "time": now}),
                    trials=ids,
                    scale=scale,
                    params=trials[0].params,
                    flops=sum(trial.flops for trial in trials),
                    seconds=self._book.seconds(trials),
                    submitted=now,
                )
                jobs.append(job)
                self._spending.commit(job)
        return jobs

    def _next_trials(self, scale: Scale) -> list[str]:
        """Trials of a scale for its next job; none if it has none, or may not go on."""
        if self._spending.unmeasured(scale):
            return []
        if scale in self._flops and self._spending.allows(self._flops[scale]):
            self._propose(scale)
        waiting = self._book.at(scale).waiting
        size = min(self._job_size(waiting[0]), self._share()) if waiting else 0
        if size and self._only_first(scale):
            size = 0 if self._held(scale) else 1
            self._put_middle_first(scale)
        found: list[str] = []
        while waiting and len(found) < size:
            *begun, last = (self._book.trials[trial_id] for trial_id in (*found, waiting[0]))
            if not self._spending.allows(*(trial.flops for trial in (*begun, last)), begun=begun):
                break
            found.append(waiting.popleft())
        return found

    def _job_size(self, trial_id: str) -> int:
        trial = self._book.trials[trial_id]
        if trial.scale not in self._job_sizes:
            self._job_sizes[trial.scale] = self._plan.job_size(self._folder.read_trial(trial_id).run)
        return self._job_sizes[trial.scale]

    def _share(self) -> int:
        """Trials of a job, at most, that leave none of this machine's devices without one.

        It goes by all trials that there are, whatever has become of them: the same sweep makes the same jobs.
        """
        trials = len(self._book.trials)
        if not self._launcher.dedicated or self._campaign.chosen:  # a sampler has more when it is asked
            return trials
        return math.ceil(trials / self._launcher.slots)

    def _only_first(self, scale: Scale) -> bool:
        """Whether the scale's first trial has still to succeed before the others."""
        return self._plan.config.stage == FIRST and not self._book.at(scale).succeeded

    def _put_middle_first(self, scale: Scale) -> None:
        """Moves a trial of the middle one of a scale's settings to the front."""
        waiting = self._book.at(scale).waiting
        settings = sorted({self._setting(trial_id) for trial_id in waiting})
        first = next(trial_id for trial_id in waiting if self._setting(trial_id) == settings[len(settings) // 2])
        waiting.remove(first)
        waiting.appendleft(first)

    def _setting(self, trial_id: str) -> Point:
        return self._book.setting(self._book.trials[trial_id])

    def _held_back(self) -> dict[str, str]:
        """Scales whose first trial failed, with why: under stage=first their others are not trained."""
        found = {scale.name: at for scale, at in self._book.scales.items() if at.waiting and self._only_first(scale)}
        return {name: HELD_BACK for name, at in found.items() if at.failed and not at.open}

    def _holds(self) -> dict[str, str]:
        """The same, and scales whose first trial is in a job."""
        why = "waits for its scale's first trial (stage=first)"
        running = {scale.name: why for scale, at in self._book.scales.items() if at.open and self._only_first(scale)}
        return running | self._held_back()

    def _propose(self, scale: Scale) -> None:
        """Adds settings to a scale that has nothing waiting: the sampler's, or beyond an edge."""
        at = self._book.at(scale)
        if at.waiting or at.curbed or self._held(scale):
            return
        if self._campaign.chosen:
            room = self._campaign.points - len(at.values) - self._repeats[scale]
            size = min(SUGGESTED_AT_ONCE, self._plan.job_size(self._plan.run(scale))) if room > 0 else 0
            for _ in range(min(room, 1 if self._only_first(scale) else size)):
                self._suggest(scale)
        elif not at.open:
            setting = self._extension(scale)
            if setting is not None:
                self._add(scale, [setting])

    def _held(self, scale: Scale) -> bool:
        """Whether the scale's first trial runs, or has failed."""
        return self._only_first(scale) and bool(self._book.at(scale).open or self._book.at(scale).failed)

    def _suggest(self, scale: Scale) -> None:
        """Makes trials of one value that the sampler chooses."""
        number, tuned = self._studies.ask(scale, self._campaign.purpose)
        trial = self._plan.trial(scale, tuned, self._plan.seeds[0], self._campaign.purpose)
        if trial.id in self._book.trials:  # the bound of a range, say, which some samplers choose again
            self._studies.discard(scale, self._campaign.purpose, number)
            self._repeats[scale] += 1
            return
        self._studies.bind(trial, number)
        self._add_trials([trial])
        self._add(scale, [self._book.setting(trial)])

    def _extension(self, scale: Scale) -> Point | None:
        """The next setting that would bracket the scale's optimum, within the bounds on either side."""
        at = self._book.at(scale)
        setting = next_point(at.mean_losses(), self._campaign.ranges)
        if setting is not None and (setting in at.values or self._refusal(scale, setting)):
            setting = None  # its trials have failed, or would
        at.bracketed_by = at.succeeded if setting is None else None
        return setting

    def _refusal(self, scale: Scale, setting: Point) -> str | None:
        """The rule that a setting breaks, such as one of the schedule that knows no value beyond 1."""
        try:
            self._plan.runner.size(self._plan.run(scale, dict(zip(self._plan.tuned, setting, strict=True))))
        except ConfigError as error:
            return str(error)
        return None

    def _progress(self) -> Progress:
        waiting = self._jobs.waiting(read_states(self._folder))
        running = self._jobs.open_trials(but=waiting)
        rows = ((trial, self._book.outcomes.get(trial.id)) for trial in self._book.trials.values())
        at_a_time = len(set(self._jobs.submitted) - waiting)  # a scheduler has room for many more than run
        return count_progress(rows, running, max(1, min(self._launcher.slots, at_a_time)))

    def _report(self) -> DriverSummary:
        held = self._held_back()
        report = DriverSummary(self._progress(), held=[f"{name}: {why}" for name, why in held.items()])
        for scale, at in self._book.scales.items():
            asked = self._campaign.chosen and not at.curbed
            short_of = max(0, self._campaign.points - len(at.values)) if asked else 0
            left = len(at.waiting) + at.open + short_of * len(self._plan.seeds)
            if scale.name in held:
                continue
            if left:
                report.missing.append(f"{scale.name}: {left} trials not run")
            elif (edge := self._edge(scale)) is None:
                continue
            elif not self._campaign.chosen and not at.curbed and (setting := self._extension(scale)) is not None:
                report.missing.append(f"{edge}; {', '.join(map(short, setting))} was to be next")
            else:
                report.unbracketed.append(f"{edge}; {self._why_no_further(scale)}")
        return report

    def _edge(self, scale: Scale) -> str | None:
        found = unbracketed_edges(self._book.at(scale).mean_losses(), self._campaign.ranges)
        return f"{scale.name}: {', '.join(found)}" if found else None

    def _why_no_further(self, scale: Scale) -> str:
        at = self._book.at(scale)
        setting = next_point(at.mean_losses(), self._campaign.ranges)
        if setting is not None and setting in at.values:
            return f"{', '.join(map(short, setting))} failed"
        why = self._refusal(scale, setting) if setting is not None else None
        return why or "nothing beyond is tried (space.*.extend)"


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
            raise already_driven(folder, error.holder) from None
        yield


def already_driven(folder: RunFolder, holder: Mapping[str, Any]) -> StoppedError:
    """The error that says who drives a run."""
    pid, host = holder["pid"], holder["host"]
    since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
    return StoppedError(
        f"{folder.path} is being driven by process {pid} on {host} since {since}; watch it with "
        f"`hptransfer status {folder.path}`, or end that process first"
    )
