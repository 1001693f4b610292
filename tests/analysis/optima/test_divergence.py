"""Divergence: the edge of even odds moves with the size, and nothing is recommended beyond it."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.optima.divergence import SLIP, fit_divergence
from hptransfer.analysis.pipeline import analyze_file
from hptransfer.analysis.predict.findings import prediction_json
from hptransfer.analysis.report.run_context import RunContext
from hptransfer.analysis.report.sections import scale_table
from hptransfer.analysis.tables.arrays import Runs
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from tests.support.bowls import Bowl, answer, power

# Public runs of AdamW: the largest learning rate of a grid of octaves that is stable, by parameters.
STABLE = {130e6: 0.016, 300e6: 0.008, 520e6: 0.004}
RATES = tuple(0.016 * 2.0**k for k in range(-5, 2))


def adamw(seed: int = 0) -> pd.DataFrame:
    """Runs whose largest stable rate halves from size to size; the best rate falls more slowly."""
    random, rows = np.random.default_rng(seed), []
    for params, rate in itertools.product(STABLE, RATES):
        away = math.log2(rate / 0.004) + 0.4 * math.log2(params / 130e6)
        loss = 3.2 * (params / 130e6) ** -0.08 * math.exp(0.004 * away**2 + 0.001 * random.standard_normal())
        rows.append({"params": params, "learning_rate": rate, "loss": loss if rate <= STABLE[params] else math.inf})
    return pd.DataFrame(rows)


def test_the_edge_falls_with_the_size() -> None:
    sizes = [*STABLE, 1.2e9]
    table = adamw()
    edges = []
    for params in sizes:
        found = answer(table, scale=["params"], tune=["learning_rate"], target={"params": params})
        prediction = prediction_json(found.analysis)
        edges.append(prediction["hyperparameters"]["learning_rate"]["stable_below"])
        assert prediction["p_diverge"] < 0.5
        assert prediction["hyperparameters"]["learning_rate"]["value"] < edges[-1]
    assert all(larger < smaller for smaller, larger in itertools.pairwise(edges))
    for edge, stable in zip(edges, STABLE.values(), strict=False):
        assert stable / 1.3 < edge < 2.6 * stable


# The bowl's centre grows with the width and the edge falls: they cross between the last width and the target.
CROSSING = Bowl(
    optimum=lambda width: -6 + 0.2 * math.log2(width / 64),
    diverges=lambda width: -3.4 - 0.8 * math.log2(width / 64),
)


def test_nothing_is_recommended_beyond_even_odds_even_where_the_bowls_centre_is() -> None:
    found = answer(CROSSING.runs(), target={"width": 2048})
    row = found.analysis.predictions.iloc[0]
    divergence = found.analysis.fit.divergence
    assert divergence is not None
    assert divergence.probability(np.array([found.center]), {"width": 2048.0}).item() > 0.5
    assert row["p_diverge"] <= 0.5 + 1e-3
    assert row["lr"] <= row["lr_stable_below"] * 1.01
    assert row["lr"] < row["lr_center"]


@pytest.mark.parametrize("width", [64, 256, 512])
def test_a_scale_of_which_all_runs_diverged_is_shown_as_unknown(width: int, tmp_path: Path) -> None:
    table = Bowl().runs(rates=tuple(range(-9, -3)))
    table.loc[table["width"] == width, "loss"] = math.inf
    path, targets = tmp_path / "runs.csv", tmp_path / "targets.csv"
    table.to_csv(path, index=False)
    pd.DataFrame([{"width": 1024}]).to_csv(targets, index=False)
    found = analyze_file(path, scales=("width",), tuned=("lr",), loss="loss", targets=targets, out=tmp_path / "out")
    assert 0 < json.loads((tmp_path / "out" / "fit.json").read_text())["noise"] < 0.1
    (row,) = [row for row in scale_table(found.fit, RunContext(title="", uncounted={})).rows if f"{width}" in row.name]
    assert row.loss == row.curvature == "\N{EN DASH}"
    assert row.untransferred in ("unknown", "diverges")
    assert "nan" not in (tmp_path / "out" / "report.html").read_text().lower().split("<svg")[0]


def test_without_a_diverged_run_nothing_is_said() -> None:
    found = answer(Bowl().runs())
    prediction = prediction_json(found.analysis)
    assert found.analysis.fit.divergence is None
    assert prediction["p_diverge"] is None
    assert prediction["hyperparameters"]["lr"]["stable_below"] is None
    assert "diverges" not in found.analysis.summary().partition("\n")[0]


def test_one_run_that_broke_among_many_is_no_edge() -> None:
    """Its rate is the best one, and higher ones are sound."""
    table = Bowl().runs()
    broken = (table["width"] == 128) & (np.round(np.log2(table["lr"])) == np.round(power()(128)))
    table.loc[broken, "loss"] = math.inf
    found = answer(table)
    assert found.analysis.predictions["p_diverge"].iloc[0] < 0.2
    assert found.value == pytest.approx(answer(Bowl().runs()).value, abs=found.width / 5)


def test_the_edge_lies_between_the_stable_and_the_diverged_runs() -> None:
    columns = Columns(scales=("width",), tuned=("lr",))
    bowl = Bowl(diverges=lambda width: -2.5 - 0.5 * math.log2(width / 64))
    runs = Runs.of(check_table(bowl.runs(), columns, "test"), columns)
    model = fit_divergence(runs, np.where(np.isfinite(runs.loss), 0.0, 1.0))
    assert model is not None
    assert model.has_edge.all()
    for index, scale in enumerate(runs.scales):
        x, finite = runs.x[runs.of_scale(index), 0], np.isfinite(runs.loss[runs.of_scale(index)])
        edge = model.edge(np.array([-6.0]), scale, 0)
        assert x[finite].max() - 0.5 < edge < x[~finite].min() + 0.5
        assert model.probability(np.array([edge + 4]), scale).item() > 1 - 2 * SLIP
        assert model.probability(np.array([edge - 4]), scale).item() < 2 * SLIP
    assert fit_divergence(runs, np.zeros(len(runs.loss))) is None
