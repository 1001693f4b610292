"""The recommended value loses least in expectation, and keeps away from a steep side."""

import math

import numpy as np
import pytest

from hptransfer.analysis.predict.decision import RETRAINED, _Posterior, decide
from tests.support.bowls import TARGET, Answer, Bowl, answer

# Above its optimum the loss rises as an exponential, below it as a straight line.
STEEP = Bowl(curvature=0.01, skew=1.5)
# Octaves of the scatter of single scales about the law, which makes the posterior wide.
SCATTER = 0.5


def steep(seed: int) -> tuple[Answer, float]:
    """The answer of a sweep with a wide posterior, and log2 of the target's own best rate."""
    random = np.random.default_rng([seed, 3])
    widths = (64, 128, 256, 512, 1024)
    off = dict(zip(widths, SCATTER * random.standard_normal(len(widths)), strict=True))
    bowl = Bowl(curvature=STEEP.curvature, skew=STEEP.skew, optimum=lambda width: STEEP.optimum(width) + off[width])
    return answer(bowl.runs(seed=seed, rates=tuple(range(-10, -3)))), bowl.optimum(1024)


def test_a_decision_and_the_optimums_mean_differ_towards_the_flat_side() -> None:
    found, _ = steep(0)
    assert found.width > 0.8
    assert found.value < found.center - 0.05
    row = found.analysis.predictions.iloc[0]
    assert row["lr_low"] <= row["lr"] <= row["lr_high"]
    expected = decide(found.analysis.fit, TARGET)
    assert expected.expected_percent < expected.p90_percent


def test_with_a_narrow_posterior_or_alike_sides_they_are_one() -> None:
    narrow = answer(STEEP.runs(rates=tuple(range(-10, -3)), noise=1e-4))
    assert abs(narrow.value - narrow.center) < 0.1
    alike = answer(Bowl().runs())
    assert abs(alike.value - alike.center) < 0.1 * alike.width + 0.02


def test_by_the_posterior_the_decision_loses_less_than_the_mean_and_than_its_neighbours() -> None:
    found, _ = steep(0)
    posterior = _Posterior.of(found.analysis.fit, TARGET, np.array([found.center]))
    least = posterior.expected(np.array([found.value]))
    assert least < posterior.expected(np.array([found.center]))
    for octaves in (-0.1, 0.1):
        assert least <= posterior.expected(np.array([found.value + octaves]))


@pytest.mark.slow
def test_on_average_the_decision_loses_no_more_than_the_mean() -> None:
    decided, centred = [], []
    for seed in range(30):
        found, truth = steep(seed)
        for lost, x in ((decided, found.value), (centred, found.center)):
            lost.append(min(STEEP.excess(x - truth), RETRAINED))
    assert np.mean(decided) <= np.mean(centred)


@pytest.mark.parametrize("seed", range(2))
def test_a_decision_lies_within_its_interval(seed: int) -> None:
    for found in (steep(seed)[0], answer(Bowl().runs(seed=seed))):
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9
        assert found.low <= found.center <= found.high


def test_a_decision_outside_all_tried_values_is_called_so() -> None:
    leaving = Bowl(optimum=lambda width: -6 - 0.8 * math.log2(width / 64))
    outside = answer(leaving.runs(rates=tuple(range(-8, -2))), target={"width": 2048})
    assert outside.analysis.predictions["lr_outside_tried"].iloc[0]
    assert any("lies outside all values that were tried" in warning for warning in outside.analysis.warnings)
    inside = answer(Bowl().runs())
    assert not inside.analysis.predictions["lr_outside_tried"].iloc[0]
    assert not any("outside all values" in warning for warning in inside.analysis.warnings)


def test_the_risk_is_the_loss_above_the_optimum_over_the_posterior() -> None:
    found, bowl = answer(Bowl().runs()), Bowl()
    row, deviation = found.analysis.predictions.iloc[0], found.width / (2 * 1.645)
    assert row["risk_expected_percent"] == pytest.approx(100 * bowl.curvature * deviation**2, rel=0.4)
    assert row["risk_p90_percent"] == pytest.approx(100 * bowl.curvature * (found.width / 2) ** 2, rel=0.4)
