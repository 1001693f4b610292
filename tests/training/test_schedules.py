"""The schedule: up, then down to zero over the run's own budget, the same factor for all groups."""

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.training.loop import Stack
from hptransfer.training.schedules import Schedule
from tests.training.settings import small


def test_it_warms_up_to_one_and_decays_to_zero() -> None:
    factors = [Schedule(warmup=0.1).factor(step, 100) for step in range(100)]
    assert max(factors) == 1
    assert factors.index(1) == 10
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] <= 0.012


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_short_runs_have_a_rate_at_every_step(steps: int) -> None:
    assert all(0 < Schedule(warmup=0.5).factor(step, steps) <= 1 for step in range(steps))


def test_ratios_between_groups_never_change() -> None:
    run = small(width=64)
    stack = Stack([run], [0], vocabulary=256, device="cpu")
    batch = run.data.load().batch(seed=0, step=0, batch=2, sequence=32)
    ratios = set()
    for factor in (0.1, 1.0, 0.01):
        stack.step(*batch, factor)
        rates = [group["lr"] for group in stack.optimizer.param_groups]
        ratios.add(round(max(rates) / min(rates), 12))
    assert ratios == {2.0}


def test_a_warmup_of_the_whole_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run.schedule.warmup must be in \[0, 1\).*got 1"):
        Schedule(warmup=1).check("run.schedule")
