"""The loss of ignoring a movement, against problems whose loss is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from hptransfer.analysis.predict.ignored_movement import loss_of_reuse, movement
from tests.support.bowls import Bowl, answer, power
from tests.support.slow import slow_except

WIDE = {"width": 1024.0}
RATES = tuple(range(-11, 0))
SEEDS = 10


def bowl(exponent: float, skew: float = 0.0) -> Bowl:
    return Bowl(curvature=0.02, skew=skew, optimum=power(exponent))


@pytest.mark.parametrize(
    ("exponent", "skew"), slow_except([(-0.3, 0.0), (-1.0, 0.0), (-0.6, 0.3), (0.5, 0.3)], (-0.6, 0.3))
)
def test_the_estimate_is_within_a_factor_of_two_and_its_interval_holds_the_truth(exponent: float, skew: float) -> None:
    """At least eight of ten sweeps; the value is that found at width 64."""
    problem, near, held = bowl(exponent, skew), 0, 0
    for seed in range(SEEDS):
        fit = answer(problem.runs(rates=RATES, noise=0.003, seed=seed), target=WIDE).analysis.fit
        lost = loss_of_reuse(fit, WIDE, fit.smallest.x)
        width = WIDE["width"]
        truth = problem.level(width) * math.expm1(problem.excess(float(fit.smallest.x[0]) - problem.optimum(width)))
        near += 0.5 <= lost.nats.value / truth <= 2
        held += lost.nats.low <= truth <= lost.nats.high
    assert near >= 8
    assert held >= 8


def test_a_loss_that_is_nil_is_not_estimated_to_be_large() -> None:
    """The control: an optimum that stays. The interval reaches down to nothing."""
    fit = answer(bowl(0.0).runs(rates=RATES, noise=0.003), target=WIDE).analysis.fit
    lost = loss_of_reuse(fit, WIDE, fit.smallest.x)
    assert lost.nats.low < 0.001 * lost.loss
    assert lost.nats.high < 0.01 * lost.loss
    assert not fit.exponents["lr"]["width"].moves


@pytest.mark.parametrize("exponent", [-1.0, 0.5])
def test_the_factor_to_the_target_is_that_of_the_law(exponent: float) -> None:
    fit = answer(bowl(exponent).runs(rates=RATES), target=WIDE).analysis.fit
    factor = movement(fit, 0, "width", WIDE).factor
    assert factor.low <= 2.0 ** (4 * exponent) <= factor.high
    assert factor.high / factor.low < 2
    assert fit.exponents["lr"]["width"].moves


def test_the_interval_widens_with_the_distance() -> None:
    fit = answer(bowl(-0.6).runs(rates=RATES, noise=0.003), target=WIDE).analysis.fit
    ratios = []
    for octaves in (1, 3, 5, 7):
        lost = loss_of_reuse(fit, WIDE, fit.predict(WIDE)[:, 0] + octaves)
        ratios.append(lost.nats.high - lost.nats.low)
    assert ratios == sorted(ratios)


def test_few_runs_give_a_wider_interval_than_many() -> None:
    """The uncertainty of the response is in it: three rates about the optimum of four widths, or eleven."""

    def spread(rates: Callable[[float], tuple[int, ...]]) -> float:
        problem = bowl(-0.3)
        table = problem.runs(rates=RATES, noise=0.003)
        kept = [round(math.log2(row.lr)) in rates(problem.optimum(row.width)) for row in table.itertuples()]
        fit = answer(table[kept], target=WIDE).analysis.fit
        lost = loss_of_reuse(fit, WIDE, np.array([problem.optimum(64)]))
        return lost.nats.high / lost.nats.low

    few = spread(lambda best: tuple(round(best) + step for step in (-1, 0, 1)))
    assert few > 1.5 * spread(lambda best: RATES)


def test_losses_below_zero_lose_the_same_without_a_percentage() -> None:
    """Their differences are fitted: a shift of all losses changes no loss above an optimum."""
    problem = bowl(-0.6)
    table = problem.runs(rates=RATES, noise=0.003)
    fit = answer(table.assign(loss=table["loss"] - 10), target=WIDE).analysis.fit
    lost = loss_of_reuse(fit, WIDE, fit.smallest.x)
    width = WIDE["width"]
    truth = problem.level(width) * math.expm1(problem.excess(float(fit.smallest.x[0]) - problem.optimum(width)))
    assert lost.nats.low <= truth <= lost.nats.high
    assert 0.5 <= lost.nats.value / truth <= 2
    assert lost.percent() == ""
    assert "%" not in lost.sentence()
