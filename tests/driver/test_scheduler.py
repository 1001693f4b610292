"""The scheduler alone: from the state of a sweep to jobs, without a clock, a launcher or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.records import DONE, FAILED, Outcome, Scale, Trial
from hptransfer.driver.budget import BudgetUse
from hptransfer.driver.scheduler import Scheduler
from hptransfer.driver.trial_index import TrialIndex
from hptransfer.planning.plan import Plan, make_plan
from hptransfer.planning.trial_set import TrialSet
from tests.support.helpers import ONE_SCALE, tiny


class FixedProposals:
    """A sampler with a list of learning rates."""

    def __init__(self, *rates: float) -> None:
        self._rates = iter(enumerate(rates))
        self.calls: list[tuple[str, Any]] = []

    def ask(self, scale: Scale, purpose: str) -> tuple[int, dict[str, float]]:
        number, rate = next(self._rates)
        return number, {"lr": rate}

    def bind(self, trial: Trial, number: int) -> None:
        self.calls.append(("bind", number))

    def discard(self, scale: Scale, purpose: str, number: int) -> None:
        self.calls.append(("discard", number))

    def start(self, trial: Trial) -> None:
        self.calls.append(("start", trial.tuned["lr"]))


class Bench:
    """A scheduler with the state that it reads; nothing is on disk."""

    def __init__(self, plan: Plan, sampler: FixedProposals) -> None:
        trial_set = TrialSet.sweep(plan)
        self.index = TrialIndex(plan.config.folder, plan.tuned)
        self.runs: dict[str, Mapping[str, Any]] = {}
        self.scheduler = Scheduler(
            plan=plan,
            trial_set=trial_set,
            index=self.index,
            budget=BudgetUse(plan.config.budget, self.index),
            sampler=sampler,
            read_run=self.runs.__getitem__,
        )
        for scale, points in trial_set.points.items():
            self.runs |= {trial.id: trial.run for trial in self.scheduler.add(scale, points)}

    def start(self, free: int, devices: int | None = None) -> list[list[float]]:
        """Learning rates of the trials of each new job."""
        start = self.scheduler.next_start(free=free, now=0.0, devices=devices)
        self.runs |= {trial.id: trial.run for trial in start.trials}
        return [[self.index.trials[trial_id].tuned["lr"] for trial_id in job.trials] for job in start.jobs]

    def end(self, state: str) -> None:
        """Gives every started trial this outcome."""
        waiting = {trial_id for scale in self.index.scales.values() for trial_id in scale.waiting}
        for trial_id in self.index.trials.keys() - waiting - self.index.outcomes.keys():
            outcome = Outcome(state=state, loss=1.0 if state == DONE else None)
            self.index.finish(trial_id, outcome, was_open=True, job="")


@pytest.fixture(autouse=True)
def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialIndex, "finish", finish_in_memory)


def finish_in_memory(index: TrialIndex, trial_id: str, outcome: Outcome, *, was_open: bool, job: str) -> None:
    state = index.at(index.trials[trial_id].scale)
    state.open -= was_open
    state.states[outcome.state] += 1
    index.outcomes[trial_id] = outcome


RATES = [2.0**-8, 2.0**-6, 2.0**-4]


def test_free_slots_are_filled_with_waiting_trials_in_order(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path, *ONE_SCALE))
    bench = Bench(plan, FixedProposals())
    assert bench.start(free=0) == []
    assert bench.start(free=4) == [RATES]
    assert bench.start(free=4) == []
    assert not plan.config.folder.path.exists()


def test_no_device_of_this_machine_is_left_without_a_job(tmp_path: Path) -> None:
    bench = Bench(make_plan(tiny(tmp_path, *ONE_SCALE)), FixedProposals())
    assert bench.start(free=2, devices=2) == [RATES[:2], RATES[2:]]


def test_the_pilot_trial_decides_about_its_scale(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path, "stage=first", *ONE_SCALE))
    bench = Bench(plan, FixedProposals())
    assert bench.start(free=4) == [[RATES[1]]]
    assert bench.start(free=4) == []
    assert bench.scheduler.scales_with_running_pilot() == list(plan.scales)
    bench.end(FAILED)
    assert bench.start(free=4) == []
    assert bench.scheduler.scales_with_running_pilot() == []
    assert bench.scheduler.scales_with_failed_pilot() == list(plan.scales)


def test_after_a_pilot_trial_that_trained_the_others_start(tmp_path: Path) -> None:
    bench = Bench(make_plan(tiny(tmp_path, "stage=first", *ONE_SCALE)), FixedProposals())
    bench.start(free=4)
    bench.end(DONE)
    assert list(map(sorted, bench.start(free=4))) == [[RATES[0], RATES[2]]]
    assert bench.scheduler.scales_with_failed_pilot() == []


def test_a_budget_ends_what_starts(tmp_path: Path) -> None:
    bench = Bench(make_plan(tiny(tmp_path, "budget.trials=2", *ONE_SCALE)), FixedProposals())
    assert bench.start(free=4) == [RATES[:2]]


def test_a_proposal_that_repeats_a_trial_is_discarded_and_counted(tmp_path: Path) -> None:
    sampler = FixedProposals(0.01, 0.01, 0.02)
    plan = make_plan(tiny(tmp_path, "sampler=random", "sampler.trials=3", *ONE_SCALE))
    bench = Bench(plan, sampler)
    assert bench.start(free=4) == [[0.01, 0.02]]
    assert sampler.calls == [("bind", 0), ("discard", 1), ("bind", 2), ("start", 0.01), ("start", 0.02)]
    bench.end(DONE)
    assert bench.start(free=4) == []


def test_new_trials_are_returned_with_their_configurations(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path, "sampler=random", "sampler.trials=3", "seeds=2", *ONE_SCALE))
    bench = Bench(plan, FixedProposals(0.01, 0.02, 0.03))
    start = bench.scheduler.next_start(free=1, now=0.0, devices=None)
    assert [(trial.tuned["lr"], trial.seed) for trial in start.trials] == [
        (rate, seed) for rate in (0.01, 0.02, 0.03) for seed in plan.seeds
    ]
    assert all(trial.run for trial in start.trials)
