"""What to run next: the runs that are ranked first narrow the interval most for what they cost."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.laws.fit import Fit, fit_table
from hptransfer.analysis.laws.model_averaging import Component
from hptransfer.analysis.predict.next_runs import (
    _Candidate,
    _candidates,
    _narrowings,
    _OptimaInformation,
    next_runs,
    next_table,
)
from hptransfer.analysis.statistics.linear_model import LinearLaw, OptimaLikelihood, solve
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table

COLUMNS = Columns(scales=("width",), tuned=("lr",))
TARGET = {"width": 2048.0}


def landscape(runs: dict[int, list[float]], seed: int = 0) -> pd.DataFrame:
    """A table with these octaves from the optimum tried at each width."""
    random = np.random.default_rng(seed)
    rows = []
    for width, away in runs.items():
        centre = -6 - 0.5 * np.log2(width / 64)
        for u in away:
            loss = 3 * (width / 64) ** -0.1 + 0.03 * u**2 + 0.01 * random.standard_normal()
            rows.append({"width": width, "lr": 2.0 ** (centre + u), "flops": 1e9 * (width / 64) ** 2, "loss": loss})
    return check_table(pd.DataFrame(rows), COLUMNS, "test")


FULL = [-2.0, -1.0, 0.0, 1.0, 2.0]


def test_a_scale_that_is_hardly_known_comes_before_one_that_is() -> None:
    table = landscape({64: FULL * 6, 128: FULL * 6, 256: [-1.0, 1.0]})
    ranked = next_runs(fit_table(table, COLUMNS), TARGET)
    assert ranked[0].axes["width"] >= 256


def test_the_first_of_the_ranking_narrows_more_than_the_last() -> None:
    """The control is the same number of runs at the place that was ranked last."""
    runs = {64: FULL * 2, 128: FULL * 2, 256: FULL[1:4]}
    fit = fit_table(landscape(runs), COLUMNS)
    ranked = [one for one in next_runs(fit, TARGET, count=40) if len(one.settings) == 1]
    widths = []
    for one in (ranked[0], ranked[-1]):
        away = float(one.settings[0, 0] + 6 + 0.5 * np.log2(one.axes["width"] / 64))
        more = {**runs, int(one.axes["width"]): [*runs.get(int(one.axes["width"]), []), *[away] * 12]}
        spans = [fit_table(landscape(more, seed), COLUMNS).predict(TARGET)[0] for seed in range(6)]
        widths.append(np.mean([high - low for _, low, high in spans]))
    assert widths[0] < widths[1]


@pytest.mark.parametrize("tried_at_256", [FULL, [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5], [0.5, 0.0, -0.5, 1.0, 1.5, 2.0]])
@pytest.mark.parametrize("target", [512.0, 2048.0])
def test_nothing_is_proposed_that_costs_as_much_as_the_target_or_was_tried(
    target: float, tried_at_256: list[float]
) -> None:
    runs = {64: FULL, 128: FULL, 256: tried_at_256}
    ranked = next_runs(fit_table(landscape(runs), COLUMNS), {"width": target}, count=60)
    assert any(one.axes["width"] == 256 for one in ranked)
    proposed = [(one.axes["width"], *one.settings[:, 0]) for one in ranked]
    assert len(set(proposed)) == len(proposed)
    for one in ranked:
        assert one.axes["width"] < target
        tried = runs.get(int(one.axes["width"]), [])
        centre = -6 - 0.5 * np.log2(one.axes["width"] / 64)
        assert all(min((abs(x - centre - u) for u in tried), default=1) > 0.05 for x in one.settings[:, 0])


def test_the_table_has_a_row_a_run() -> None:
    fit = fit_table(landscape({64: FULL, 128: FULL, 256: FULL}), COLUMNS)
    ranked = next_runs(fit, TARGET, count=5)
    assert len(ranked) == 5
    assert [one.axes for one in next_runs(fit, TARGET, count=2)] == [one.axes for one in ranked[:2]]
    table = next_table(fit, ranked)
    assert list(table.columns) == ["rank", "width", "lr", "flops", "narrowing"]
    assert len(table) == sum(len(one.settings) for one in ranked)
    first = table[table["rank"] == 1]
    assert list(first["lr"]) == [2.0 ** float(x) for (x,) in ranked[0].settings]
    assert set(first["flops"]) == {ranked[0].flops}
    assert set(first["narrowing"]) == {ranked[0].narrowing}
    assert all(0 < one.narrowing < 1 for one in ranked)


def test_a_dear_run_has_to_narrow_more() -> None:
    """The same losses at other costs, of which the ranking alone depends."""
    table = landscape({64: FULL, 128: FULL, 256: FULL})
    first = {}
    for power in (0.01, 6.0):
        costly = table.assign(flops=1e9 * (table["width"] / 64) ** power)
        first[power] = next_runs(fit_table(costly, COLUMNS), TARGET)[0]
    assert first[0.01].axes["width"] > first[6.0].axes["width"] == 64
    assert first[0.01].narrowing > first[6.0].narrowing


def test_the_width_is_the_mean_standard_deviation_of_the_targets_optimum_in_logarithms() -> None:
    """A constant law without a prior: the optimum's own error, and the scatter of both scales."""
    law = SimpleNamespace(means=np.zeros((1, 1)), block_features=lambda rows: rows)
    parts = [
        SimpleNamespace(
            variant=SimpleNamespace(matrix=lambda scales: np.ones((len(scales), 1))),
            law=law,
            posterior=SimpleNamespace(scatter=np.array([[scatter]]), deviations=np.full((1, 1, 1), 1e6)),
            weights=np.array([weight]),
        )
        for scatter, weight in ((0.1, 0.75), (0.3, 0.25))
    ]
    state = _OptimaInformation([{"width": 64.0}], np.array([[25.0]]))
    widths = [
        sum(weight * np.log(1 / information + 2 * scatter**2) / 2 for scatter, weight in ((0.1, 0.75), (0.3, 0.25)))
        for information in (25.0, 100.0)
    ]
    candidate = _Candidate({"width": 64.0}, np.zeros((1, 1)), 1.0, np.array([[75.0]]), is_new_scale=False)
    narrowings = _narrowings(parts, state, TARGET, [candidate])  # type: ignore[arg-type]
    assert narrowings == pytest.approx([widths[0] - widths[1]], rel=1e-6)
    informed = state.with_run({"width": 64.0}, np.array([[75.0]]))
    assert informed.information.tolist() == [[100.0]]
    assert state.information.tolist() == [[25.0]]
    other = state.with_run({"width": 128.0}, np.array([[75.0]]))
    assert other.information.tolist() == [[25.0, 0.0], [0.0, 75.0]]
    assert (other.index({"width": 128.0}), other.index({"width": 32.0})) == (1, None)


def log_width(fit: Fit, parts: list[Component], state: _OptimaInformation) -> float:
    """Log width of the target's interval, each component solved by itself."""
    likelihood = OptimaLikelihood(state.information, np.zeros(len(state.information)), len(fit.tuned))
    width = 0.0
    for part in parts:
        features, scatter = part.variant.matrix(state.scales), part.posterior.scatter
        law = LinearLaw(features, part.law.means, part.posterior.deviations, np.ones(1))
        covariance = solve(likelihood, law, scatter).covariance[0]
        row = law.block_features(part.variant.matrix([TARGET]))
        variance = np.einsum("kc,cd,kd->k", row, covariance, row) + scatter[0] ** 2
        width += part.weights.item() * float(np.mean(np.log(variance))) / 2
    return width


def test_narrowings_are_those_of_fits_with_each_candidates_information() -> None:
    """At trained scales and at new ones; all follow from one posterior."""
    fit = fit_table(landscape({64: FULL, 128: FULL, 256: FULL[1:4]}), COLUMNS)
    surface, parts = fit.surfaces[0], fit.mixture.heaviest(3)
    state = _OptimaInformation(fit.runs.scales, surface.information)
    candidates = _candidates(fit, surface, TARGET)
    assert {candidate.is_new_scale for candidate in candidates} == {True, False}
    before = log_width(fit, parts, state)
    alone = [before - log_width(fit, parts, state.with_run(one.axes, one.added)) for one in candidates]
    assert _narrowings(parts, state, TARGET, candidates) == pytest.approx(alone, abs=1e-9)
    assert max(alone) > 1e-3
