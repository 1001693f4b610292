"""Laws bend: an optimum that is no exact power of the size is held by the interval."""

import math

import numpy as np
import pytest

from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.laws.model_averaging import LawProblem
from hptransfer.analysis.predict import validation
from hptransfer.analysis.statistics import priors
from tests.support.bowls import Bowl, answer
from tests.support.slow import slow_except

WIDTHS = tuple(64 * 2**octave for octave in range(6))
TARGET = {"width": 64 * 2**6}
BENT = Bowl(optimum=lambda width: -6 - 0.15 * math.log2(width / 64) ** 2)
TRUTH = BENT.optimum(TARGET["width"])
RATES = tuple(range(-13, 0))


def held(seeds: int, laws: tuple[str, ...] = ()) -> int:
    """Number of sweeps whose interval holds the target's best rate."""
    return sum(
        answer(BENT.runs(widths=WIDTHS, rates=RATES, noise=0.002, seed=seed), target=TARGET, laws=laws).holds(TRUTH)
        for seed in range(seeds)
    )


@pytest.mark.parametrize(("seeds", "fewest"), slow_except([(6, 5), (12, 10)], (6, 5)))
def test_intervals_hold_the_optimum_of_a_bent_law(seeds: int, fewest: int) -> None:
    assert held(seeds) >= fewest


@pytest.mark.parametrize(("seeds", "most"), slow_except([(3, 1), (12, 2)], (3, 1)))
def test_intervals_of_a_power_alone_do_not(monkeypatch: pytest.MonkeyPatch, seeds: int, most: int) -> None:
    """Nor are they widened by the rehearsal, which would notice."""
    monkeypatch.setattr(priors, "BEND_SPREADS", (1e-6, 1e-6, 1e-6, 1e-6))
    monkeypatch.setattr(validation, "LEAST_FACTOR", 1e6)
    assert held(seeds, ("power",)) <= most


def test_the_scale_of_a_bend_follows_from_the_columns_names() -> None:
    along_tokens, along_params = priors.bend_scale("lr", "tokens"), priors.bend_scale("learning_rate", "params")
    assert along_tokens < along_params < priors.bend_scale("lr", "width") == priors.OTHER_BEND
    assert priors.bend_scale("beta2", "tokens") == priors.bend_scale("", "tokens") == priors.OTHER_BEND


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_shares_of_the_spreads_add_up_to_one(axes: int) -> None:
    spreads, shares = priors.bend_spreads(axes)
    assert spreads.shape == (len(shares), axes)
    assert shares.sum() == pytest.approx(1)
    assert (shares > 0).all()
    assert len(shares) == (len(priors.BEND_SPREADS) if axes > priors.OWN_BEND else len(priors.BEND_SPREADS) ** axes)


def test_the_prior_of_a_bend_has_a_heavier_tail_than_a_normal() -> None:
    """A normal of the same median absolute value."""
    spreads, shares = priors.bend_spreads(1)

    def beyond(size: float) -> float:
        return float(shares @ [math.erfc(size / (spread * math.sqrt(2))) for spread in spreads[:, 0]])

    sizes = np.linspace(0.1, 5, 2000)
    median = sizes[np.argmin([abs(beyond(size) - 0.5) for size in sizes])]
    normal = median / 0.6745
    for times in (3, 5, 8):
        assert beyond(times * normal) > 3 * math.erfc(times / math.sqrt(2))


def test_a_bend_leaves_the_power_between_the_ends_as_it_is() -> None:
    scales = [{"width": float(width)} for width in WIDTHS]
    problem = LawProblem(scales, ("lr",), np.zeros(1), vague=False)
    features = problem.power().matrix(scales)
    assert features.shape == (6, 3)
    assert features[0, 2] == features[-1, 2]
    assert list(features[:, 2]) == [(octave - 2.5) ** 2 for octave in range(6)]
    assert SweptAxes.of(scales).moving == ["width"]


def test_a_law_without_priors_does_not_bend() -> None:
    scales = [{"width": float(width)} for width in WIDTHS]
    problem = LawProblem(scales, ("lr",), np.zeros(1), vague=True)
    assert problem.power().matrix(scales).shape == (6, 2)
    assert problem.linear(problem.power()).shares == pytest.approx([1.0])
