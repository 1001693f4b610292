"""Schedules: warm-up and decay over the budget, one factor per trial."""

import dataclasses

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.training.schedules import SCHEDULE_SHAPES, Schedule
from hptransfer.training.stack import Stack
from tests.support.settings import small


def factors(schedule: Schedule, steps: int = 100, peak: float = 1.0) -> list[float]:
    warm = schedule.warmup_steps(steps, 64)
    return [schedule.factor(step, steps, warm=warm, peak=peak) for step in range(steps)]


@pytest.mark.parametrize("shape", SCHEDULE_SHAPES)
def test_it_warms_up_to_one_and_never_rises_again(shape: str) -> None:
    found = factors(Schedule(shape=shape, warmup=0.1))
    assert max(found) == found[10] == 1
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[0] > 0


@pytest.mark.parametrize(
    ("shape", "half", "last"), [("constant", 1, 1), ("linear", 0.5, 0.01), ("cosine", 0.5, 0.00025), ("wsd", 1, 0.05)]
)
def test_how_each_decays(shape: str, half: float, last: float) -> None:
    found = factors(Schedule(shape=shape, warmup=0, decay=0.2))
    assert found[50] == pytest.approx(half)
    assert found[-1] == pytest.approx(last, rel=0.02)


def test_wsd_decays_over_its_share_alone() -> None:
    found = factors(Schedule(shape="wsd", warmup=0.1, decay=0.2))
    assert found[10:81] == [1.0] * 71
    assert found[90] == pytest.approx(0.5)


@pytest.mark.parametrize("unit", [("fraction", 0.1), ("steps", 10), ("tokens", 640)])
def test_warmup_in_three_units(unit: tuple[str, float]) -> None:
    assert factors(Schedule(warmup_in=unit[0], warmup=unit[1])) == factors(Schedule(warmup=0.1))


@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
def test_a_decay_ends_at_a_fraction_or_a_fixed_floor(shape: str) -> None:
    to_share = factors(Schedule(shape=shape, end=0.1), steps=10_000)
    assert 0.1 <= to_share[-1] < 0.11
    floor = Schedule(shape=shape, floor=1e-5)
    assert factors(floor, steps=10_000, peak=1e-3)[-1] * 1e-3 == pytest.approx(1e-5, rel=0.11)
    assert factors(floor, steps=10_000, peak=1e-4)[-1] * 1e-4 == pytest.approx(1e-5, rel=0.11)
    assert max(factors(floor, peak=1e-6)) == 1  # a floor above the peak does not raise rates


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shape", SCHEDULE_SHAPES)
def test_short_runs_have_a_rate_at_every_step(shape: str, steps: int) -> None:
    assert all(0 < factor <= 1 for factor in factors(Schedule(shape=shape, warmup=0.5), steps))


def test_ratios_between_groups_never_change() -> None:
    run = small(width=64, schedule=Schedule(shape="cosine", floor=1e-3))
    stack = Stack(
        [run, dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, lr=0.1))], [0, 0], device="cpu"
    )
    batch = run.data.load().batch(seed=0, step=0, batch=2, sequence=32)
    ratios, between = set(), set()
    for at in (0, 20, 60):
        stack.step(*batch, at)
        rates = {trial: [g["lr"] for g in stack.optimizers[0].param_groups if g["trial"] == trial] for trial in (0, 1)}
        ratios |= {round(max(found) / min(found), 12) for found in rates.values()}
        between.add(round(max(rates[1]) / max(rates[0]), 6))
    assert ratios == {2.0}
    assert len(between) > 1  # the floor is the same for both, so their factors differ


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 1}, r"run.schedule.warmup must be in \[0, 1\).*got 1"),
        ({"warmup_in": "epochs"}, r"warmup_in: unknown unit 'epochs'"),
        ({"shape": "cosin"}, r"run.schedule.shape: unknown schedule 'cosin'.*cosine"),
        ({"end": 2}, r"run.schedule.end must be in \[0, 1\]"),
        ({"floor": -1}, r"run.schedule.floor must be"),
        ({"decay": 0}, r"run.schedule.decay must be in \(0, 1\]"),
        ({"warmup": 64, "warmup_in": "steps"}, r"\(64 steps, 64 steps\) must be shorter than the run of 64 steps"),
    ],
)
def test_bad_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(schedule=Schedule(**changes)).check()


@pytest.mark.parametrize(("warmup", "decay"), [(0.5, 0.6), (0.1, 1.0)])
def test_a_warm_up_that_lasts_into_the_decay_is_refused(warmup: float, decay: float) -> None:
    with pytest.raises(ConfigError, match=r"begins before the warm-up of .* ends"):
        Schedule(shape="wsd", warmup=warmup, decay=decay).warmup_steps(100, 64)
    with pytest.raises(ConfigError, match="make one of them shorter"):
        Schedule(shape="wsd", warmup=64 * 95, warmup_in="tokens").warmup_steps(100, 64)
    assert Schedule(shape="wsd", warmup=0.9, decay=0.1).warmup_steps(100, 64) == 90
    assert Schedule(shape="linear", warmup=warmup, decay=decay).warmup_steps(100, 64) == 100 * warmup
