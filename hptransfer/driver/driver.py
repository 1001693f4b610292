"""The driver's loop, level-triggered and safe to kill at any time.

One driver runs for each run folder.

Each tick handles requests, fills the free slots in one submission, and collects jobs that have ended. An outcome is in
its trial's folder before Optuna or the tracker sees it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from hptransfer.core.attempts import reset_trial
from hptransfer.core.errors import FitError, StoppedError
from hptransfer.core.io import read_jsonl, write_json
from hptransfer.core.locks import LockedError, lock
from hptransfer.core.records import LOG_ESTIMATORS, PRUNED, Outcome, Trial, short
from hptransfer.core.run_folder import RunFolder, disk_errors
from hptransfer.driver.budget import BudgetUse
from hptransfer.driver.checks.long_trials import LongTrials
from hptransfer.driver.checks.repeated_failures import RepeatedFailures
from hptransfer.driver.driver_state import PILOT_FAILED, PILOT_RUNNING, DriverState, read_states
from hptransfer.driver.halving import SuccessiveHalving
from hptransfer.driver.jobs import JobManager, write_in_parallel
from hptransfer.driver.optuna_studies import LastPoint, Studies
from hptransfer.driver.progress import Progress, count_progress
from hptransfer.driver.requests import carry_out, read_requests, set_aside_request
from hptransfer.driver.scheduler import Scheduler
from hptransfer.driver.summary import DriverSummary, summarize
from hptransfer.driver.trial_index import EarlyEnds, TrialIndex
from hptransfer.launchers import Launcher
from hptransfer.planning.plan import Plan
from hptransfer.planning.trial_set import TrialSet, search_bounds
from hptransfer.trackers import BackgroundTracker

WAIT_S = 0.25
REPORT_S = 0.5
# Counting thousands of trials takes longer: at most a twentieth of the time goes into it.
REPORT_SHARE = 20


@dataclass(frozen=True, kw_only=True)
class DriverPorts:
    """A driver's connections: launcher, tracker and callbacks.

    Attributes:
        show: called with the progress at intervals.
        interrupted: asked at every tick; True ends the driver.
        blocked: called with a reason when nothing continues without a person.
        note: called with a line for the user.
    """

    launcher: Launcher
    tracker: BackgroundTracker
    show: Callable[[Progress], None]
    interrupted: Callable[[], bool] = lambda: False
    blocked: Callable[[str, Progress], None] = lambda reason, progress: None
    note: Callable[[str], None] = lambda text: None


class Driver:
    """The loop that trains one trial set in one run folder.

    The caller holds the driver's lock (see `driving`).
    """

    def __init__(self, *, plan: Plan, trial_set: TrialSet, folder: RunFolder, ports: DriverPorts) -> None:
        self._plan, self._trial_set, self._folder, self._ports = plan, trial_set, folder, ports
        config = plan.config
        bounds = {bound.name: (bound.low, bound.high) for bound in search_bounds(plan)}
        log = {key: tuned.log for key, tuned in config.space.items()}
        self._index = TrialIndex(folder, plan.tuned, plan.objective)
        self._budget = BudgetUse(config.budget, self._index)
        self._studies = Studies(folder, config.sampler, bounds, log, plan.objective)
        self._jobs = JobManager(
            folder, ports.launcher, self._index, config.retry, config.launcher.max_attempts, self._on_trial_end
        )
        self._scheduler = Scheduler(
            plan=plan,
            trial_set=trial_set,
            index=self._index,
            budget=self._budget,
            sampler=self._studies,
            read_run=lambda trial_id: folder.read_trial(trial_id).run,
        )
        self._state = DriverState(folder, config.hooks.blocked_after_s, ports.blocked)
        self._halving: SuccessiveHalving | None = None
        if trial_set.halving.share is not None:
            tokens = {scale: plan.run(scale)["tokens"] for scale in trial_set.scales}
            self._halving = SuccessiveHalving(folder, trial_set.halving, tokens, self._index.steps, plan.objective)
        self._scales = frozenset(trial_set.scales)
        self._just_ended: list[Trial] = []
        self._unfittable: tuple[Trial, float] | None = None
        self._early_ends = None if plan.runner.knows_last_step(plan.run(plan.target)) else EarlyEnds()
        self._missing_state = plan.runner.missing_state(plan.run(plan.target))
        self._failures = RepeatedFailures(config.retry.stop_after)
        self._recovered = self._stopping = False
        target_run = plan.run(plan.target)
        self._long_trials: LongTrials | None = None
        if plan.runner.may_hang(target_run):
            self._long_trials = LongTrials(folder, self._index, plan.runner.timeout_factor(target_run))
        self._next_report = -math.inf
        self._last_end = time.monotonic()

    def run(self) -> DriverSummary:
        """Tick until all trials are trained or the budget is spent.

        Raises:
            StoppedError: the run folder cannot be written.
            FitError: a trial's loss is not above 0, which the estimator requires; jobs in flight are cancelled.
        """
        with disk_errors(self._folder):
            self._recover()
            self._recovered = True
            self._check_losses()
            while not self._tick():
                self._check_losses()
            self._write_state()
        return summarize(
            self._progress(),
            trial_set=self._trial_set,
            num_seeds=len(self._plan.seeds),
            index=self._index,
            scheduler=self._scheduler,
            stopped_by=self._failures.reached,
        )

    def _recover(self) -> None:
        """Restore the state from disk and add the missing trials.

        Outcomes, unfinished trials and running jobs are on disk.
        """
        changed = []
        for trial in self._folder.each_trial():
            if self._trial_set.includes(trial):
                self._reset_pruned(trial)
                planned = self._as_planned_now(trial)
                self._index.add(planned)
                changed += [planned] if planned != trial else []
        write_in_parallel(self._folder.write_trial, changed)
        self._studies.sync(self._as_on_disk())
        self._jobs.restore()
        for trial in self._index.trials.values():
            if trial.id in self._index.outcomes:
                continue
            if self._jobs.job_of(trial.id):
                self._studies.start(trial)
                self._ports.tracker.started(trial.id)
            else:
                self._index.at(trial.scale).waiting.append(trial.id)
        for scale, points in self._trial_set.points.items():
            self._write_trials(self._scheduler.add(scale, points))
            self._scheduler.order_waiting(scale, points)
        if self._trial_set.sampled:
            self._write_trials(self._scheduler.repeat_known_points())

    def _write_trials(self, trials: Sequence[Trial]) -> None:
        write_in_parallel(self._folder.write_trial, trials)

    def _reset_pruned(self, trial: Trial) -> None:
        """Reset a trial that successive halving pruned, unless that is still on."""
        path = self._folder.pruned_path(trial.id)
        if self._plan.config.halving.share is not None or not path.exists():
            return
        outcome = self._folder.read_outcome(trial.id)
        if outcome is not None and outcome.state == PRUNED:
            reset_trial(self._folder, trial.id, outcome, forgive=True)
        path.unlink(missing_ok=True)

    def _as_planned_now(self, trial: Trial) -> Trial:
        """Return an unfinished trial as the sweep describes it now.

        It stays as it was if its id would change. A change that concerns no number of a trial changes no id; an example
        is a time limit.
        """
        if trial.scale not in self._scales or self._folder.outcome_path(trial.id).exists():
            return trial
        planned = self._plan.trial(trial.scale, trial.tuned, trial.seed, trial.purpose)
        return planned if planned.id == trial.id else trial

    def _as_on_disk(self) -> Iterator[tuple[Trial, Outcome | None, LastPoint]]:
        """All trials with their outcomes as the folders have them."""
        for trial in self._index.trials.values():
            outcome = self._folder.read_outcome(trial.id)
            yield trial, outcome, self._last_point(trial, outcome)

    def _last_point(self, trial: Trial, outcome: Outcome | None) -> LastPoint:
        """The last point of a pruned trial's curve."""
        if outcome is None or outcome.state != PRUNED:
            return None
        points = [(point["step"], point["loss"]) for point in read_jsonl(self._folder.curve_path(trial.id))]
        return points[-1] if points else None

    def _on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        self._last_end = time.monotonic()
        self._studies.tell(trial, outcome, self._last_point(trial, outcome))
        self._ports.tracker.log(trial, outcome)
        self._just_ended.append(trial)
        if self._recovered:  # a failure that was there before was seen, and the same command goes on
            self._failures.add(trial, outcome)
        if outcome.loss is not None and outcome.loss <= 0 and self._plan.config.estimator in LOG_ESTIMATORS:
            self._unfittable = trial, outcome.loss
        if outcome.missing is not None and outcome.state != self._missing_state:  # the rule has changed
            self._withdraw(trial.id, outcome.missing)
        elif self._early_ends is not None:
            for trial_id, reason in self._early_ends.add(trial, outcome).items():
                self._withdraw(trial_id, reason)

    def _withdraw(self, trial_id: str, reason: str) -> None:
        """Replace the outcome of a trial that has no result.

        Optuna is told at the next start: its finished trials cannot change.
        """
        trial, state = self._index.trials[trial_id], self._missing_state
        outcome = self._index.outcomes[trial_id].missing_result(state, reason)
        write_json(self._folder.outcome_path(trial_id), outcome.to_json())
        self._index.withdraw(trial_id, outcome, job=self._jobs.job_of(trial_id))
        self._ports.tracker.log(trial, outcome)
        self._ports.note(f"{trial_id} {trial.name}: {reason}; it counts as {state} (run.metric.missing)")

    def _check_losses(self) -> None:
        """End a sweep at the first trial that makes its fit impossible."""
        if self._unfittable is None:
            return
        self._ports.launcher.cancel(self._jobs.submitted)
        trial, loss = self._unfittable
        raise FitError(
            f"trial {trial.id} {trial.name} has {self._plan.objective.name} {short(loss)}, but estimator="
            f"{self._plan.config.estimator} compares its ratios or logarithms, which need values above 0; the sweep "
            "ends here and its trials are kept: run it again with estimator=surface, which fits differences then"
        )

    def _tick(self) -> bool:
        """Do one round; True when nothing is left to do."""
        if self._ports.interrupted():
            raise KeyboardInterrupt
        self._handle_requests()
        self._stop_after_failures()
        may_start = self._budget.allows() and not self._stopping
        if may_start:
            self._jobs.submit_due()
        if not self._stopping:
            self._start_jobs()
        self._report_progress()
        if self._jobs.in_flight:
            for ended in self._ports.launcher.wait(WAIT_S):
                self._jobs.end(ended)
        elif not self._jobs.delayed or not may_start:
            return True
        else:
            time.sleep(WAIT_S)
        self._jobs.check_adopted()
        return False

    def _stop_after_failures(self) -> None:
        """Start nothing more after equal failures in a row.

        Jobs that run are trained to their end, as one of them may have taken days. Those that a scheduler has not
        started are withdrawn.
        """
        if self._failures.reached is None or self._stopping:
            return
        self._stopping = True
        self._jobs.withdraw(read_states(self._folder))
        failure, running = self._failures.reached, len(self._jobs.open_trials())
        rest = f"; those that run ({running}) are trained to their end" if running else ""
        self._ports.note(f"{failure.count} trials in a row failed alike, so no further ones are started{rest}")

    def _handle_requests(self) -> None:
        """Carry out requests of other shells in order.

        A request that takes longer keeps later ones waiting.
        """
        requests = read_requests(self._folder, lambda path, reason: self._ports.note(set_aside_request(path, reason)))
        for path, request in requests:
            if not carry_out(request, self._index, self._jobs):
                return
            path.unlink(missing_ok=True)

    def _start_jobs(self) -> None:
        """Fill the launcher's free slots."""
        if self._budget.limits_time:
            self._budget.expect(self._jobs.expected_s())
        launcher = self._ports.launcher
        devices = launcher.slots if launcher.dedicated else None
        start = self._scheduler.next_start(free=self._jobs.free, now=time.time(), devices=devices)
        self._write_trials(start.trials)
        for job in start.jobs:
            for trial_id in job.trials:
                self._ports.tracker.started(trial_id)
        self._jobs.submit(start.jobs)

    def _report_progress(self) -> None:
        """Prune trials, show progress and write the state, at intervals."""
        if time.monotonic() < self._next_report:
            return
        began = time.monotonic()
        self._prune()
        self._look_for_hangs()
        progress = self._progress()
        self._ports.show(progress)
        self._write_state()
        self._state.look_for_blocks(self._jobs.submitted, progress)
        took = time.monotonic() - began
        self._next_report = time.monotonic() + max(REPORT_S, REPORT_SHARE * took)

    def _write_state(self) -> None:
        waiting = dict.fromkeys(self._scheduler.scales_with_running_pilot(), PILOT_RUNNING)
        waiting |= dict.fromkeys(self._scheduler.scales_with_failed_pilot(), PILOT_FAILED)
        self._state.write({scale.key: reason for scale, reason in waiting.items()}, self._jobs.delayed)

    def _prune(self) -> None:
        """Mark trials that fall behind others of their scale.

        Their workers stop them at the next point of the curve.
        """
        ended, self._just_ended = self._just_ended, []
        if self._halving is None:
            return
        running = [self._index.trials[trial_id] for trial_id in self._jobs.open_trials()]
        trials = [trial for trial in (*ended, *running) if trial.scale in self._scales]
        for trial_id, point in self._halving.pruned(trials).items():
            path = self._folder.pruned_path(trial_id)
            if trial_id not in self._index.outcomes and not path.exists():
                write_json(path, {"tokens": point["tokens"], "loss": point["loss"]})

    def _look_for_hangs(self) -> None:
        if self._long_trials is None:
            return
        running = self._jobs.open_trials(but=self._jobs.waiting(read_states(self._folder)))
        for line in self._long_trials.look(running, time.monotonic()):
            self._ports.note(line)

    def _progress(self) -> Progress:
        waiting = self._jobs.waiting(read_states(self._folder))
        running = self._jobs.open_trials(but=waiting)
        rows = ((trial, self._index.outcomes.get(trial.id)) for trial in self._index.trials.values())
        side_by_side = len(set(self._jobs.submitted) - waiting)  # a scheduler accepts many more than run
        slots = max(1, min(self._ports.launcher.slots, side_by_side))
        since_s = time.monotonic() - self._last_end
        return count_progress(rows, running, slots, self._plan.objective, since_s=since_s)


@contextmanager
def driving(folder: RunFolder) -> Iterator[None]:
    """Hold the run's driver lock.

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
    """Return the error that names the process that drives a run."""
    pid, host = holder["pid"], holder["host"]
    since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
    return StoppedError(
        f"{folder.path} is being driven by process {pid} on {host} since {since}; watch it with "
        f"`hptransfer status {folder.path}`, or end that process first"
    )
