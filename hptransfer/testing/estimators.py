"""Contract kit of the estimators: optima of runs whose response is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.model_averaging import LawProblem
from hptransfer.analysis.optima.estimators import ESTIMATORS, OptimaEstimate
from hptransfer.analysis.tables.arrays import Array, Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table

COLUMNS = Columns(scales=("width", "tokens"), tuned=("lr",))
LEARNING_RATES = tuple(2.0**power for power in range(-11, -2))
MISSED_OCTAVES = 0.6
"""Largest error of an optimum in octaves: half of the grid's spacing for the best run itself, and some noise."""


def drawn_runs(*, diverging: bool = False) -> tuple[Runs, Array]:
    """Return runs of a parabola in log2 lr, and their optima.

    Args:
        diverging: whether runs far above the optimum have no loss.
    """
    random = np.random.default_rng(0)
    rows, optima = [], {}
    for width, tokens in itertools.product((32.0, 64.0, 128.0), (2.0**15, 2.0**16)):
        best = -7.0 - 0.5 * np.log2(width / 32)
        optima[width * tokens, width] = best
        for rate in LEARNING_RATES:
            octaves = np.log2(rate) - best
            loss = 2.0 + 64 / width + 0.05 * octaves**2 + 0.002 * random.standard_normal()
            diverges = diverging and octaves > 2.5
            rows.append({"width": width, "tokens": tokens, "lr": rate, "seed": 0, "loss": np.inf if diverges else loss})
    runs = Runs.of(check_table(pd.DataFrame(rows), COLUMNS, "kit"), COLUMNS)
    expected = [optima[scale["width"] * scale["tokens"], scale["width"]] for scale in runs.scales]
    return runs, np.array(expected)


def estimates(name: str, runs: Runs) -> list[OptimaEstimate]:
    """Return all forms that an estimator finds."""
    problem = LawProblem(runs.scales, runs.columns.known, np.array([-7.0]), vague=True)
    return list(ESTIMATORS.get(name).find(runs, problem.linear(problem.power())))


def check_optima(name: str) -> None:
    """Check that optima of a parabola are found at every scale."""
    _check(name, diverging=False)


def check_diverged_runs(name: str) -> None:
    """Check that runs that diverged do not move the optima."""
    _check(name, diverging=True)


def _check(name: str, *, diverging: bool) -> None:
    runs, optima = drawn_runs(diverging=diverging)
    forms = estimates(name, runs)
    assert forms, f"estimator {name} must find at least one form"
    for form in forms:
        assert form.intercepts.shape == (runs.num_scales,), f"estimator {name}: one intercept a scale"
        x = form.likelihood.by_scale()[0][:, 0]
        missed = np.abs(x - optima).max()
        assert missed < MISSED_OCTAVES, f"estimator {name}: an optimum is missed by {missed:.2f} octaves"


CHECKS = (check_optima, check_diverged_runs)
