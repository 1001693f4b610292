"""Published estimators give the exponents that their protocols give on published runs (Step Law, arXiv:2503.04715)."""

import numpy as np
import pytest

from benchmarks.extrapolation import COLUMNS, read
from hptransfer.analysis.laws.model_averaging import LawProblem
from hptransfer.analysis.optima.estimators import ESTIMATORS, equal_weight_likelihood
from hptransfer.analysis.statistics.linear_model import solve
from hptransfer.analysis.tables.arrays import Array, Runs

# Learning rate along params and tokens, batch size along tokens alone.
PUBLISHED = {"argmin": (-0.820, 0.277, 0.459), "geometric_mean": (-1.102, 0.318, 0.664)}
QUADRATIC = (-1.184, 0.401, 0.708)
# Vertex of a paraboloid over each of the eight scales, cheapest first along params, then tokens: rate, batch size.
VERTICES = (
    (214663680, 4.00e9, 1.995e-3, 88),
    (214663680, 1.14e10, 2.746e-3, 162),
    (214663680, 2.00e10, 4.155e-3, 350),
    (268304384, 5.00e9, 1.898e-3, 97),
    (268304384, 1.42e10, 2.335e-3, 158),
    (268304384, 2.50e10, 3.570e-3, 327),
    (429260800, 8.00e9, 1.178e-3, 100),
    (429260800, 2.27e10, 1.742e-3, 206),
)
TOLERANCE = 0.005


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs.of(read(), COLUMNS)


def exponents(runs: Runs, x: Array) -> tuple[float, float, float]:
    """By the regression that the analyzer uses for published estimators, axis by axis as the study chose them."""
    return (*_powers(runs, x[:, [0]], ("params", "tokens")), *_powers(runs, x[:, [1]], ("tokens",)))


def _powers(runs: Runs, x: Array, axes: tuple[str, ...]) -> list[float]:
    scales = [{axis: scale[axis] for axis in axes} for scale in runs.scales]
    problem = LawProblem(scales, ("tuned",), np.zeros(1), vague=True)
    found = equal_weight_likelihood(x, np.ones(len(x)))
    return list(solve(found.likelihood, problem.linear(problem.power()), [(1.0,)]).coefficients[0, 0, 1:])


def placed(runs: Runs, estimator: str) -> Array:
    """log2 of what an estimator finds at every scale."""
    problem = LawProblem(runs.scales, COLUMNS.tuned, np.zeros(2), vague=True)
    (found,) = ESTIMATORS.get(estimator).find(runs, problem.linear(problem.power()))
    return found.likelihood.by_scale()[0]


@pytest.mark.parametrize("estimator", PUBLISHED)
def test_exponents_are_those_of_the_published_protocol(runs: Runs, estimator: str) -> None:
    assert exponents(runs, placed(runs, estimator)) == pytest.approx(PUBLISHED[estimator], abs=TOLERANCE)


@pytest.mark.parametrize("estimator", PUBLISHED)
def test_exponents_of_swapped_columns_are_others(runs: Runs, estimator: str) -> None:
    swapped = exponents(runs, placed(runs, estimator)[:, ::-1])
    for found, expected in zip(swapped, PUBLISHED[estimator], strict=True):
        assert abs(found - expected) > 10 * TOLERANCE


def test_exponents_of_published_vertices_are_the_published_ones(runs: Runs) -> None:
    assert exponents(runs, vertices(runs)) == pytest.approx(QUADRATIC, abs=TOLERANCE)


def test_one_vertex_an_octave_off_is_seen(runs: Runs) -> None:
    moved = vertices(runs)
    moved[0] += 1
    for found, expected in zip(exponents(runs, moved), QUADRATIC, strict=True):
        assert abs(found - expected) > 10 * TOLERANCE


def vertices(runs: Runs) -> Array:
    """In the order of the runs' scales."""
    order = [
        min(VERTICES, key=lambda row: abs(np.log(row[0] / scale["params"])) + abs(np.log(row[1] / scale["tokens"])))
        for scale in runs.scales
    ]
    assert len(set(order)) == len(VERTICES)
    return np.log2([row[2:] for row in order])
