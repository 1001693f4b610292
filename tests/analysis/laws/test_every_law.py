"""Every law: what was drawn from it is found again, and it does not apply to tables that lack its axes."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from hptransfer.analysis.laws.exponents import INTERVAL
from hptransfer.analysis.laws.forms import LAWS, Law, SweptAxes, Variant, default_laws, intercept_term
from hptransfer.analysis.laws.model_averaging import LawProblem, ModelAverage, average_models
from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.statistics.linear_model import OptimaLikelihood, solve
from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.core.errors import FitError

# Axes that a law is about, besides those that any table has.
AXES = {
    "drift": ("width", "depth"),
    "batch_time": ("batch_size", "tokens"),
    "tokens_per_parameter": ("params", "tokens"),
}
ANY = ("size", "age")
TARGET_OCTAVES = 2
SURE = 0.01
LEVEL = -7.0


def scales_over(axes: Sequence[str], octaves: int = 4) -> list[Axes]:
    """A grid, cheapest first, and at its end the target, beyond it along every axis."""
    powers = sorted(itertools.product(range(octaves), repeat=len(axes)), key=sum)
    powers.append((octaves - 1 + TARGET_OCTAVES,) * len(axes))
    return [{axis: 64.0 * 2.0**power for axis, power in zip(axes, one, strict=True)} for one in powers]


def drawn(variant: Variant, scales: Sequence[Axes], random: np.random.Generator) -> tuple[Array, Array]:
    """Coefficients as this law's may be, and the optima of scales by it."""
    coefficients = np.array([LEVEL, *random.uniform(0.3, 0.6, len(variant.terms) - 1) * random.choice([-1, 1])])
    for place, term in enumerate(variant.terms):
        if term.mean is not None:  # how it bends is part of the form
            coefficients[place] = term.mean or coefficients[place]
    return coefficients, variant.matrix(scales) @ coefficients


def problem_of(scales: Sequence[Axes], x: Array, error: float) -> tuple[LawProblem, OptimaEstimate]:
    """Return the inputs of a law fit to optima with a standard error in octaves."""
    precision = np.full(len(x), error**-2)
    likelihood = OptimaLikelihood(np.diag(precision), precision * x, 1)
    flat = np.full((len(x), 1, 1), np.nan)
    problem = LawProblem(scales, ("knob",), np.array([LEVEL]), vague=False)
    return problem, OptimaEstimate(likelihood, flat, np.full(len(x), np.nan), np.nan)


def variants_of(name: str) -> tuple[list[Axes], list[Variant]]:
    scales = scales_over(AXES.get(name, ANY))
    return scales, LAWS.get(name).variants(SweptAxes.of(scales[:-1]))


def test_the_default_weighs_every_law_in_its_order() -> None:
    assert set(default_laws()) == set(LAWS.names())
    assert default_laws()[:2] == ("constant", "power")  # sums over laws depend on the order in their last bits


@pytest.mark.parametrize("default", [True, False])
def test_a_law_that_is_registered_is_weighed_if_it_says_so(monkeypatch: pytest.MonkeyPatch, default: bool) -> None:
    class Level(Law):
        def variants(self, seen: SweptAxes) -> list[Variant]:
            return [Variant("level", [intercept_term()])]

    Level.default = default
    monkeypatch.setitem(LAWS._members, "level", Level())
    assert ("level" in default_laws()) == default


@pytest.mark.parametrize("name", LAWS.names())
def test_a_law_finds_its_own_numbers_again(name: str) -> None:
    scales, variants = variants_of(name)
    assert variants
    for variant in variants:
        coefficients, x = drawn(variant, scales, np.random.default_rng(1))
        problem, found = problem_of(scales[:-1], x[:-1], SURE)
        solved = solve(found.likelihood, problem.linear(variant), (0.03,))
        there = variant.matrix(scales[-1:]) @ solved.coefficients[0]
        spread = np.sqrt(np.diag(solved.covariance))
        assert (np.abs(solved.coefficients[0] - coefficients) < 0.1 + 2 * spread).all(), variant.detail
        assert there[0] == pytest.approx(x[-1], abs=0.15), variant.detail


@pytest.mark.parametrize("name", [name for name in LAWS.names() if name not in ("constant", "power")])
def test_what_a_law_bends_a_power_law_misses(name: str) -> None:
    """The control: optima that this law draws are foreseen better with it than without."""
    scales, variants = variants_of(name)
    variant = variants[len(variants) // 2]
    _, x = drawn(variant, scales, np.random.default_rng(1))
    if name == "drift":  # which bends at the smallest widths alone
        x = variant.matrix(scales) @ np.array([LEVEL, 0.3, 0.3, 3.0])
    if name == "broken":
        x = variant.matrix(scales) @ np.array([LEVEL, 0.3, 0.3, -0.9])
    problem, found = problem_of(scales[:-1], x[:-1], SURE)
    shares = ModelAverage.of(average_models(problem, [found], ("power", name)), 100, 0).shares()
    straight = problem.linear(problem.power()).features @ np.array([LEVEL, 0.3, 0.3])
    _, other = problem_of(scales[:-1], straight, SURE)
    plain = ModelAverage.of(average_models(problem, [other], ("power", name)), 100, 0).shares()
    assert shares[name] > max(0.5, plain.get(name, 0.0))


@pytest.mark.parametrize("name", LAWS.names())
def test_intervals_hold_the_target_where_the_law_is_one_of_those_weighed(name: str) -> None:
    """Optima scatter about a law of this form; all forms that apply are weighed."""
    scales, variants = variants_of(name)
    scatter, error, held, sweeps = 0.1, 0.1, 0, 40
    for seed in range(sweeps):
        random = np.random.default_rng(seed)
        _, x = drawn(variants[seed % len(variants)], scales, random)
        own = x + scatter * random.standard_normal(len(x))
        problem, found = problem_of(scales[:-1], own[:-1] + error * random.standard_normal(len(x) - 1), error)
        mixture = ModelAverage.of(average_models(problem, [found], default_laws()), 300, seed)
        low, high = mixture.quantiles(scales[-1], [percent / 100 for percent in INTERVAL]).T
        held += low[0] <= own[-1] <= high[0]
    assert held / sweeps >= 0.75


def test_an_interval_without_scatter_and_form_holds_too_rarely() -> None:
    """The control: straight lines through bent optima, as if scales lay on them."""
    scales, variants = variants_of("saturating")
    held = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        _, x = drawn(variants[0], scales, random)
        own = x + 0.1 * random.standard_normal(len(x))
        problem, found = problem_of(scales[:-1], own[:-1] + 0.1 * random.standard_normal(len(x) - 1), 0.1)
        draws = ModelAverage.of(average_models(problem, [found], ("power",)), 300, seed).draws(scales[-1:])[:, 0, 0]
        low, high = np.percentile(draws, INTERVAL)
        held += low <= own[-1] <= high
    assert held / 20 < 0.7


@pytest.mark.parametrize("name", AXES)
def test_a_law_about_certain_axes_does_not_apply_without_them(name: str) -> None:
    lacking = scales_over((*AXES[name][:-1], "age")) if name != "drift" else scales_over(ANY)
    assert LAWS.get(name).variants(SweptAxes.of(lacking)) == []
    still = [{**scale, axis: 64.0} for axis in AXES[name][:1] for scale in scales_over(AXES[name])]
    assert LAWS.get(name).variants(SweptAxes.of(still)) == []  # it is there, with one value
    problem, found = problem_of(lacking, np.zeros(len(lacking)), SURE)
    with pytest.raises(FitError, match=f"none of the laws {name} applies to .*; add power"):
        average_models(problem, [found], (name,))


@pytest.mark.parametrize(("name", "values"), [("broken", 3), ("saturating", 2), ("drift", 2)])
def test_a_law_that_bends_needs_enough_values_to_show_it(name: str, values: int) -> None:
    axes = AXES.get(name, ANY)
    assert LAWS.get(name).variants(SweptAxes.of(scales_over(axes, values)[:-1])) == []
    assert LAWS.get(name).variants(SweptAxes.of(scales_over(axes, values + 1)[:-1]))
