"""The optimum of one scale: unbiased on a parabola, honest about its error, silent at an edge."""

import math

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.optimum import (
    BOUNDED,
    BRACKETED,
    EDGE_HIGH,
    EDGE_LOW,
    TOO_FEW,
    Curve,
    Optimum,
    cells,
    optimum,
    paired_error,
    repeat_noise,
    seed_residuals,
    vertex_error,
)
from hptransfer.analysis.records import Columns, check_table

COLUMNS = Columns(scales=("width",), tuned=("lr",))


def single(losses: dict[float, float | list[float]]) -> Optimum:
    rows = []
    for exponent, value in losses.items():
        repeats = value if isinstance(value, list) else [value]
        rows += [{"width": 64, "lr": 2.0**exponent, "loss": loss} for loss in repeats]
    (cell,) = cells(check_table(pd.DataFrame(rows), COLUMNS, "test"), COLUMNS)
    return optimum(cell)


def parabola(vertex: float, exponents: range, curvature: float = 0.03) -> dict[float, float | list[float]]:
    return {k: 2.5 + curvature * (k - vertex) ** 2 for k in exponents}


@pytest.mark.parametrize("vertex", [-7.0, -6.7, -6.4, -5.3])
def test_a_parabolas_vertex_is_found(vertex: float) -> None:
    found = single(parabola(vertex, range(-9, -2)))
    assert found.status == BRACKETED
    assert found.x == pytest.approx(vertex)
    assert (found.curvature, found.loss) == pytest.approx((0.03, 2.5))


def test_the_standard_error_is_the_derived_one() -> None:
    """0.064 octaves for a = 0.011, sigma = 0.004, five points an octave apart, delta = 0.3."""
    x = np.arange(-2.0, 3.0)
    assert vertex_error(x, 0.3, 0.011, 0.004) == pytest.approx(0.064, abs=0.001)


def test_the_standard_error_is_what_simulation_shows() -> None:
    random = np.random.default_rng(0)
    x = np.arange(-2.0, 3.0)
    noise = 0.004 * random.standard_normal((20_000, 5))
    a, b, _ = np.polyfit(x, (0.011 * (x - 0.3) ** 2 + noise).T, 2)
    # The ratio a/b has heavy tails; the spread of its middle is that of the derivation.
    low, high = np.percentile(-b / (2 * a), (16, 84))
    assert (high - low) / 2 == pytest.approx(vertex_error(x, 0.3, 0.011, 0.004), rel=0.08)


@pytest.mark.parametrize(
    ("vertex", "status"), [(-12.0, EDGE_LOW), (-1.0, EDGE_HIGH), (-8.7, EDGE_LOW), (-3.2, EDGE_HIGH)]
)
def test_an_optimum_at_an_edge_is_a_bound_and_no_estimate(vertex: float, status: str) -> None:
    found = single(parabola(vertex, range(-9, -2)))
    assert found.status == status
    assert math.isnan(found.se)
    assert not found.bracketed


def test_a_best_value_beside_divergence_is_bounded_by_it() -> None:
    losses = {**parabola(-3.0, range(-9, -4)), -4: math.inf, -3: math.inf}
    assert single(losses).status == BOUNDED


def test_diverged_runs_beyond_a_bracket_do_no_harm() -> None:
    found = single({**parabola(-7.2, range(-9, -4)), -4: math.inf, -3: math.nan})
    assert found.status == BRACKETED
    assert found.x == pytest.approx(-7.2)
    assert found.cell.diverged == 2


def test_two_points_are_too_few() -> None:
    assert single({-7: 2.0, -6: 2.1}).status == TOO_FEW


def test_repeats_are_averaged_and_their_spread_near_the_best_is_the_noise() -> None:
    losses: dict[float, float | list[float]] = {
        k: [2.5 + 0.03 * (k + 7) ** 2 + d for d in (-0.01, 0.01)] for k in range(-9, -4)
    }
    losses[-3] = [2.0, 30.0]  # near diverging, where seeds differ by much more
    found = single(losses)
    assert found.x == pytest.approx(-7)
    assert repeat_noise(found.cell) == pytest.approx(0.01 * math.sqrt(2))


def test_no_parabola_has_a_loss_below_zero() -> None:
    """Through few points of a steep curve its vertex can be anywhere."""
    found = single({-12: 0.9, -11: 0.52, -10: 0.51, -9: 1.6, -8: 30.0})
    assert found.bracketed
    assert 0 < found.loss <= 0.51


def test_a_far_point_that_is_low_by_chance_does_not_count() -> None:
    losses = {**parabola(-7.0, range(-9, -2)), -3: 2.501}
    assert single(losses).x == pytest.approx(-7, abs=0.05)


def test_a_curve_goes_through_its_points_and_not_beyond() -> None:
    curve = Curve([2.0**k for k in range(-9, -3)], [2.5 + 0.03 * (k + 6.4) ** 2 for k in range(-9, -3)])
    assert curve.at(-7) == pytest.approx(2.5 + 0.03 * 0.36)
    x, loss = curve.minimum()
    assert (x, loss) == pytest.approx((-6.4, 2.5), abs=0.03)
    with pytest.raises(ValueError, match="outside the curve"):
        curve.at(-10)


def paired(random: np.random.Generator, *, seeds: int, shift: float, level: float) -> Optimum:
    """Six values, whose seeds share a level and have each an optimum of their own."""
    rows = []
    for seed in range(seeds):
        own, offset = shift * random.standard_normal(), level * random.standard_normal()
        for k in range(-9, -3):
            rows.append({"width": 64, "seed": seed, "lr": 2.0**k, "loss": 2.5 + 0.03 * (k + 6 - own) ** 2 + offset})
    (cell,) = cells(check_table(pd.DataFrame(rows), COLUMNS, "test"), COLUMNS)
    return optimum(cell)


def test_seeds_that_ran_at_every_value_tell_the_error_of_the_optimum() -> None:
    random = np.random.default_rng(0)
    found = [paired(random, seeds=8, shift=0.1, level=0.05) for _ in range(300)]
    errors = [paired_error(one, residuals) for one in found if (residuals := seed_residuals(one)) is not None]
    assert len(errors) == 300
    truth = np.std([one.x for one in found])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(truth, rel=0.1)
    # Independent noise of the same size would hide in it: the level that a seed has at all values moves no vertex.
    apart = [vertex_error(one.cell.x[one.kept], one.x, one.curvature, repeat_noise(one.cell) / 8**0.5) for one in found]
    assert np.median(apart) > 2 * truth


def test_three_seeds_are_too_few_to_tell_it() -> None:
    assert seed_residuals(paired(np.random.default_rng(0), seeds=3, shift=0.3, level=0.05)) is None
