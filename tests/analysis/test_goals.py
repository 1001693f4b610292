"""Metrics to be maximized and losses without a logarithm: planted optima are found."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis import analyze
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.response import Response
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.errors import ConfigError, FitError
from hptransfer.core.io import read_json
from hptransfer.core.records import Objective
from tests.support.helpers import command

BEST = 0.007
WIDTHS = (64, 128, 256)


def accuracies() -> pd.DataFrame:
    """Accuracies that peak at BEST at every width, with unequal sides and a floor of 0.1."""
    draw = np.random.default_rng(0)
    rows = []
    for width in WIDTHS:
        for u in range(-4, 4):
            for seed in range(2):
                lost = 0.15 * (width / 64) ** -0.5 + 0.03 * u**2 * (1 + 0.1 * u) + draw.normal(0, 0.003)
                rows.append({"width": width, "lr": BEST * 2.0**u, "seed": seed, "accuracy": max(0.1, 0.93 - lost)})
    return pd.DataFrame(rows)


def answer(table: pd.DataFrame, **options: Any) -> pd.Series:
    """The prediction for twice the largest width."""
    return analyze(table, scale=["width"], tune=["lr"], targets=[{"width": 512}], **options).predictions.iloc[0]


def test_an_accuracy_is_maximized_by_the_command_and_shown_as_it_is(tmp_path: Path) -> None:
    accuracies().to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "targets.csv").write_text("width\n512\n")
    arguments = ["analyze", "--table", "runs.csv", "--scale", "width", "--tune", "lr", "--loss", "accuracy"]
    arguments += ["--targets", "targets.csv", "--out", "out"]
    refused = command(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--goal must be given for a metric named 'accuracy'" in refused.stderr
    done = command(*arguments, "--goal", "maximize", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nats" not in done.stdout
    assert " of accuracy to the target's own optimum" in done.stdout
    prediction = read_json(tmp_path / "out" / "prediction.json")
    assert prediction["hyperparameters"]["lr"]["value"] == pytest.approx(BEST, rel=0.1)
    assert prediction["loss"]["low"] < 0.93 - 0.15 * 8**-0.5 < prediction["loss"]["high"]
    assert prediction["risk"]["expected_percent"] is None
    optima = pd.read_csv(tmp_path / "out" / "optima.csv")
    assert list(optima["loss"]) == pytest.approx([0.93 - 0.15 * (width / 64) ** -0.5 for width in WIDTHS], abs=0.01)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "expected accuracy there 0.8" in page
    assert "nats" not in page


def test_losses_minus_a_constant_have_the_same_answer() -> None:
    """Below 0 and across it: to within the interval of the fit of logarithms, and exactly that of one another."""
    table = accuracies().assign(loss=lambda rows: 2 - rows["accuracy"]).drop(columns="accuracy")
    log, below, across = (answer(table.assign(loss=table["loss"] - shift)) for shift in (0.0, 10.0, 1.2))
    for shifted in (below, across):
        assert log["lr_low"] < shifted["lr"] < log["lr_high"]
        assert np.log2(shifted["lr"] / log["lr"]) == pytest.approx(0, abs=0.05)
    assert below["lr"] == pytest.approx(across["lr"], rel=1e-6)
    assert below["loss"] + 10 == pytest.approx(across["loss"] + 1.2) == pytest.approx(log["loss"], abs=0.02)


def test_a_loss_at_or_below_0_is_named() -> None:
    table = accuracies().assign(loss=lambda rows: 0.5 - rows["accuracy"]).drop(columns="accuracy")
    found = analyze(table, scale=["width"], tune=["lr"], targets=[{"width": 512}])
    count = int((table["loss"] <= 0).sum())
    assert any(line.startswith(f"{count} of {len(table)} values of loss are at or below 0") for line in found.warnings)


@pytest.mark.parametrize("estimator", ["geometric_mean", "nested"])
def test_estimators_of_ratios_and_logarithms_are_refused(estimator: str) -> None:
    table = accuracies()
    with pytest.raises(FitError, match=f"estimator {estimator} compares ratios or logarithms"):
        answer(table, loss="accuracy", goal="maximize", estimator=estimator)


def test_a_goal_is_asked_for_in_a_notebook() -> None:
    with pytest.raises(ConfigError, match="goal must be given for a metric named 'accuracy'"):
        answer(accuracies(), loss="accuracy")


def test_a_diverged_run_has_the_worst_accuracy() -> None:
    columns = Columns(("width",), ("lr",), "accuracy", objective=Objective("accuracy", "maximize"))
    table = pd.DataFrame({"width": [64] * 3, "lr": [0.1, 0.2, 0.4], "accuracy": [0.5, np.nan, np.inf]})
    assert list(check_table(table, columns, "t")["accuracy"]) == [-0.5, np.inf, np.inf]


def test_the_unit_of_differences_is_that_of_the_runs() -> None:
    """A shift changes nothing, a factor is taken up, and a huge loss of one run does not count."""
    losses, scale = np.array([0.0, 0.1, 0.3, 5.0, 5.2, 5.4]), np.array([0, 0, 0, 1, 1, 1])
    unit = Response.of_losses(losses, scale, maximized=False).unit
    assert unit == pytest.approx(10 * 0.15)
    for shifted in (losses - 7, np.append(losses - 7, np.inf), losses.clip(max=5.3) - 7):
        index = np.append(scale, 1)[: len(shifted)]
        assert Response.of_losses(shifted, index, maximized=False).unit == pytest.approx(unit)
    assert Response.of_losses(1e-6 * losses, scale, maximized=False).unit == pytest.approx(1e-6 * unit)
    assert Response.of_losses(losses + 1, scale, maximized=False) == Response(None)
    assert Response.of_losses(losses + 1, scale, maximized=True).unit == pytest.approx(unit)
    assert Response.of_losses(np.zeros(6), scale, maximized=False).unit is not None
