"""The curve that a verification reads its regret off."""

import numpy as np
import pytest

from hptransfer.analysis.optima import loss_curve as curve
from hptransfer.analysis.optima.loss_curve import LossCurve


def parabola(x: np.ndarray) -> np.ndarray:
    return 1.2 + 0.03 * (x + 5.3) ** 2


def test_points_where_training_came_apart_do_not_bend_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(-9.0, -1.0)
    losses = [*parabola(x[:6]), 40.0, 1.5e14]
    values = 2.0**x
    best, loss = LossCurve(values, losses).minimum()
    assert best == pytest.approx(-5.3, abs=0.1)
    assert loss == pytest.approx(1.2, rel=1e-3)
    monkeypatch.setattr(curve, "FAR_FACTOR", 1e20)
    assert abs(LossCurve(values, losses).minimum()[1] - 1.2) > 0.01


def test_three_points_stay_however_far_apart() -> None:
    found = LossCurve([0.1, 0.2, 0.4], [50.0, 1.0, 90.0])
    assert found.minimum()[1] == pytest.approx(1.0, abs=1e-3)
    assert list(found.y) == [50.0, 1.0, 90.0]


def test_a_loss_below_zero_has_near_points_too() -> None:
    x = np.arange(-7.0, -2.0)
    assert LossCurve(2.0**x, parabola(x) - 3).minimum()[0] == pytest.approx(-5.3, abs=0.1)
