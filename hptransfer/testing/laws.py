"""Contract kit of the laws: terms, recovery, and coverage of intervals.

A law outside the tree passes `check(name)` for each of `CHECKS`. For a law about certain axes these are given too:
`check(name, ("batch_size", "tokens"))`. Such a law also passes `check_abstains_without_its_axes`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from hptransfer.analysis.laws.exponents import INTERVAL
from hptransfer.analysis.laws.forms import LAWS, SweptAxes, Variant
from hptransfer.analysis.laws.model_averaging import LawProblem, ModelAverage, average_models
from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.statistics.linear_model import OptimaLikelihood, solve
from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.core.errors import FitError
from hptransfer.testing._asserting import assert_refused

ANY_AXES = ("size", "age")
"""Axes without a meaning to any built-in law."""
TARGET_OCTAVES = 2
SMALL_ERROR = 0.01
INTERCEPT = -7.0
SWEEPS = 40
"""Simulated sweeps of the coverage check."""
COVERAGE = 0.75
"""Share of them whose 90% interval must cover the target. Intervals of the right width cover fewer once in two hundred
times."""


def scales_over(axes: Sequence[str], values: int = 4) -> list[Axes]:
    """Return a grid of scales, cheapest first, then the target beyond.

    Args:
        values: of each axis, an octave apart.
    """
    powers = sorted(itertools.product(range(values), repeat=len(axes)), key=sum)
    powers.append((values - 1 + TARGET_OCTAVES,) * len(axes))
    return [{axis: 64.0 * 2.0**power for axis, power in zip(axes, point, strict=True)} for point in powers]


def variants_of(name: str, scales: Sequence[Axes]) -> list[Variant]:
    """Return a law's variants on all scales but the target."""
    return LAWS.get(name).variants(SweptAxes.of(scales[:-1]))


def draw_optima(variant: Variant, scales: Sequence[Axes], random: np.random.Generator) -> tuple[Array, Array]:
    """Draw coefficients of a law; return them and log2 of the optima."""
    slopes = random.uniform(0.3, 0.6, len(variant.terms) - 1) * random.choice([-1, 1])
    coefficients = np.array([INTERCEPT, *slopes])
    for index, term in enumerate(variant.terms):
        if term.mean is not None:  # the bend is part of the form
            coefficients[index] = term.mean or coefficients[index]
    return coefficients, variant.matrix(scales) @ coefficients


def law_problem(scales: Sequence[Axes], x: Array, error: float) -> tuple[LawProblem, OptimaEstimate]:
    """Return the problem of a law, and an estimate of its optima.

    Args:
        x: log2 of the optima of scales.
        error: of each, in octaves.
    """
    precision = np.full(len(x), error**-2)
    likelihood = OptimaLikelihood(np.diag(precision), precision * x, 1)
    problem = LawProblem(scales, ("knob",), np.array([INTERCEPT]), vague=False)
    flat = np.full((len(x), 1, 1), np.nan)
    return problem, OptimaEstimate(likelihood, flat, np.full(len(x), np.nan), np.nan)


def model_weights(scales: Sequence[Axes], x: Array, laws: Sequence[str]) -> dict[str, float]:
    """Return the weight of each law after well known optima."""
    problem, estimate = law_problem(scales, x, SMALL_ERROR)
    return ModelAverage.of(average_models(problem, [estimate], laws), 100, 0).shares()


def check_terms(name: str, axes: Sequence[str] = ANY_AXES) -> None:
    """Check that variants are finite linear forms that open with 1."""
    scales = scales_over(axes)
    variants = variants_of(name, scales)
    assert variants, f"law {name} must have a variant on {', '.join(axes)} with four values each"
    for variant in variants:
        matrix = variant.matrix(scales)
        assert variant.law == name, f"a variant of law {name} has the name {variant.law}"
        assert matrix.shape == (len(scales), len(variant.terms)), f"law {name}: features must be (scales, terms)"
        assert np.isfinite(matrix).all(), f"law {name} ({variant.detail}): features must be finite, also at the target"
        assert (matrix[:, 0] == 1).all(), f"law {name} ({variant.detail}): the first term of each variant must be 1"
        for term in variant.terms:
            assert (term.mean is None) == (term.deviation is None), f"law {name}: a term needs both mean and deviation"
            assert term.deviation is None or term.deviation > 0, f"law {name}: a deviation must be above 0"


def check_recovery(name: str, axes: Sequence[str] = ANY_AXES) -> None:
    """Check that the law's coefficients are found again from its optima."""
    scales = scales_over(axes)
    for variant in variants_of(name, scales):
        coefficients, x = draw_optima(variant, scales, np.random.default_rng(1))
        problem, _ = law_problem(scales[:-1], x[:-1], SMALL_ERROR)
        precision = np.full(len(x) - 1, SMALL_ERROR**-2)
        likelihood = OptimaLikelihood(np.diag(precision), precision * x[:-1], 1)
        posterior = solve(likelihood, problem.linear(variant), [(0.03,)])
        found = posterior.coefficients[0, 0]
        target = (variant.matrix(scales[-1:]) @ found).item()
        bound = 0.1 + 2 * np.sqrt(np.diag(posterior.covariance[0]))
        assert (np.abs(found - coefficients) < bound).all(), (
            f"law {name} ({variant.detail}): coefficients {coefficients} were found as {found}"
        )
        assert abs(target - x[-1]) < 0.15, (
            f"law {name} ({variant.detail}): target {x[-1]:.3f} predicted as {target:.3f}"
        )


def check_intervals(name: str, axes: Sequence[str] = ANY_AXES) -> None:
    """Check that intervals hold the target where optima scatter about the law.

    All registered laws are weighed.
    """
    scales = scales_over(axes)
    variants = variants_of(name, scales)
    scatter, error, covered = 0.1, 0.1, 0
    for seed in range(SWEEPS):
        random = np.random.default_rng(seed)
        _, x = draw_optima(variants[seed % len(variants)], scales, random)
        optima = x + scatter * random.standard_normal(len(x))
        estimated = optima[:-1] + error * random.standard_normal(len(x) - 1)
        problem, estimate = law_problem(scales[:-1], estimated, error)
        average = ModelAverage.of(average_models(problem, [estimate], LAWS.names()), 300, seed)
        low, high = average.quantiles(scales[-1], [percent / 100 for percent in INTERVAL]).T
        covered += int(low[0] <= optima[-1] <= high[0])
    assert covered >= COVERAGE * SWEEPS, f"law {name}: 90% intervals covered the target in {covered} of {SWEEPS} sweeps"


def check_abstains_without_its_axes(name: str, axes: Sequence[str], required: Sequence[str] = ()) -> None:
    """Check that a law does not apply without its required axes.

    Args:
        axes: of a table to which the law applies.
        required: those that the law needs, if not all. The last one is replaced, then the first one gets one value.
    """
    required = required or axes
    first, last = required[0], required[-1]
    renamed = scales_over([axis if axis != last else "age" for axis in axes])
    fixed = [{**scale, first: 64.0} for scale in scales_over(axes)]
    for scales, condition in ((renamed, f"without {last}"), (fixed, f"with one value of {first}")):
        assert variants_of(name, scales) == [], f"law {name} must not apply {condition}"
    problem, estimate = law_problem(renamed, np.zeros(len(renamed)), SMALL_ERROR)
    assert_refused(
        lambda: average_models(problem, [estimate], (name,)),
        f"none of the laws {name} applies to .*; add power",
        FitError,
    )


CHECKS = (check_terms, check_recovery, check_intervals)
