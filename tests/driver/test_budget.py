"""A budget counts what is spent, what is in flight and what is chosen for the same job."""

from types import SimpleNamespace
from typing import Any

import pytest

from hptransfer.config.sweep import BudgetConfig
from hptransfer.core.records import Job, Scale, Trial
from hptransfer.driver.budget import BudgetUse

SCALE = Scale({"width": 16})
TRIAL = Trial(id="x", scale=SCALE, tuned={"lr": 0.1}, seed=0, run={}, flops=10.0, params=1)
JOB = Job(id="j", trials=["x"], scale=SCALE, params=1, flops=10.0, seconds=600.0)


def use(devices: int = 2, open_trials: int = 0, known: bool = True, **limits: Any) -> BudgetUse:
    """A budget of which three trials of 10 FLOPs are started and half a device hour is measured."""
    state = SimpleNamespace(devices=devices, open=open_trials, flops=30.0 if known else 0.0)
    index = SimpleNamespace(
        started=3,
        started_flops=30.0,
        device_s=1800.0,
        at=lambda scale: state,
        seconds=lambda trials: 100.0 * len(trials) if known else None,
    )
    return BudgetUse(BudgetConfig(**limits), index)  # type: ignore[arg-type]


def test_without_a_limit_everything_may_start() -> None:
    assert use().allows(*[1e30] * 100, begun=[TRIAL])
    assert (use().bounded, use().limits_time) == (False, False)


@pytest.mark.parametrize("limit", [{"trials": 0}, {"flops": 1.0}, {"device_hours": 1.0}])
def test_any_limit_bounds_and_one_of_them_time(limit: dict[str, Any]) -> None:
    assert use(**limit).bounded
    assert use(**limit).limits_time == ("device_hours" in limit)


def test_the_number_of_trials_may_be_reached_and_not_passed() -> None:
    assert use(trials=5).allows(10.0, 10.0)
    assert not use(trials=4).allows(10.0, 10.0)


def test_flops_may_be_reached_and_not_passed() -> None:
    assert use(flops=50.0).allows(10.0, 10.0)
    assert not use(flops=49.9).allows(10.0, 10.0)


def test_every_limit_holds_by_itself() -> None:
    assert not use(trials=3, flops=1e9, device_hours=1e9).allows(10.0)
    assert not use(trials=99, flops=30.0, device_hours=1e9).allows(10.0)
    assert not use(trials=99, flops=1e9, device_hours=0.5).allows(10.0)
    assert use(trials=4, flops=40.0, device_hours=0.51).allows(10.0)


def test_jobs_in_flight_and_trials_of_the_same_job_cost_device_hours() -> None:
    assert use(device_hours=1800.5 / 3600).allows(10.0)
    assert not use(device_hours=1799.5 / 3600).allows(10.0)
    budget = use(device_hours=1.0)  # half an hour is left
    assert budget.allows(10.0)
    budget.expect(1799.0)
    assert budget.allows(10.0)
    budget.expect(1800.0)
    assert not budget.allows(10.0)
    budget.expect(0.0)
    budget.commit(JOB)  # twenty minutes: two devices for ten
    assert budget.allows(10.0, begun=[TRIAL] * 2)  # 400 more seconds
    assert not budget.allows(10.0, begun=[TRIAL] * 3)  # 600: nothing is left
    budget.commit(JOB)
    assert not budget.allows(10.0)


def test_a_job_and_trials_of_unknown_length_count_nothing() -> None:
    budget = use(device_hours=1.0, known=False)
    budget.expect(1799.5)
    budget.commit(Job(id="j", trials=["x"], scale=SCALE, params=1, flops=10.0, seconds=None))
    assert budget.allows(10.0, begun=[TRIAL])


@pytest.mark.parametrize(
    ("limits", "open_trials", "known", "needed"),
    [
        ({"device_hours": 1.0}, 1, False, True),
        ({"device_hours": 1.0}, 2, False, True),
        ({"device_hours": 1.0}, 0, False, False),
        ({"device_hours": 1.0}, 1, True, False),
        ({"trials": 9}, 1, False, False),
    ],
)
def test_a_limit_of_time_waits_for_the_first_job_of_a_scale(
    limits: dict[str, Any], open_trials: int, known: bool, needed: bool
) -> None:
    assert use(open_trials=open_trials, known=known, **limits).needs_measurement(SCALE) == needed
