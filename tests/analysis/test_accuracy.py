"""The benchmark of docs/accuracy.md in short: what the default estimator's predictions cost at larger scales."""

import numpy as np
import pytest

from benchmarks.extrapolation import (
    COLUMNS,
    PLUS,
    SEQUENCE,
    SPLITS,
    STEP_LAW,
    measured,
    published,
    regrets,
    split,
    subset,
)
from hptransfer.analysis.laws.fit import ESTIMATOR
from hptransfer.analysis.predict.published_laws import published_predictions

SUBSETS = 10


def mean_regret(budget: float | str, by: str, subsets: int) -> float:
    """Percent, over held-out scales and random subsets."""
    found = [regrets(ESTIMATOR, budget, by, seed) for seed in range(subsets)]
    return float(np.mean([one for one in found if one is not None]))


@pytest.mark.parametrize("by", SPLITS)
def test_with_all_runs_of_the_smaller_scales_a_prediction_costs_no_more_than_step_laws(by: str) -> None:
    assert mean_regret(1.0, by, 1) <= np.mean(published(by)[STEP_LAW])


def test_with_a_tenth_of_them_it_costs_at_most_a_third_more() -> None:
    assert mean_regret(0.1, "params", SUBSETS) <= 1.3 * np.mean(published("params")[STEP_LAW])


@pytest.mark.parametrize("by", SPLITS)
def test_the_best_run_costs_nothing_and_a_rate_off_by_far_more_than_step_law(by: str) -> None:
    for one in measured(by):
        larger = split(by)[1]
        own = larger[(larger["params"] == one.scale["params"]) & (larger["tokens"] == one.scale["tokens"])]
        best = own.loc[own["loss"].idxmin()]
        x = np.log2(best[["learning_rate", "batch_size"]].to_numpy(dtype=float))
        assert one.regret(x) == pytest.approx(0, abs=1e-9)
        assert one.regret(x + np.array([1.5, 0.0])) > np.mean(published(by)[STEP_LAW])


@pytest.mark.parametrize("by", SPLITS)
def test_what_is_held_out_is_not_fitted(by: str) -> None:
    smaller, larger = split(by)
    assert set(map(tuple, smaller[["params", "tokens"]].to_numpy())).isdisjoint(
        map(tuple, larger[["params", "tokens"]].to_numpy())
    )
    assert len(measured(by)) == {"params": 2, "tokens": 3}[by]


def test_a_plus_has_five_runs_a_scale_that_differ_along_one_axis_at_a_time() -> None:
    runs = subset(split("params")[0], PLUS, 0)
    for _, scale in runs.groupby(["params", "tokens"]):
        assert len(scale) == 5
        assert scale["learning_rate"].value_counts().max() == 3
        assert scale["batch_size"].value_counts().max() == 3


def test_the_published_laws_keep_their_own_units() -> None:
    """A batch size in tokens taken for sequences would be eleven octaves off, and cost it."""
    (held, _) = measured("params")
    law = published_predictions(COLUMNS, held.scale)[STEP_LAW]
    assert held.regret(np.log2([law["learning_rate"], law["batch_tokens"] / SEQUENCE])) < 0.3
    assert held.regret(np.log2([law["learning_rate"], law["batch_tokens"]])) > 1
