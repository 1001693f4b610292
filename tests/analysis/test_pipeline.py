"""The analyze stage: a run is analyzed exactly as its own records.csv is, and the page stands alone."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis import Analysis, pipeline
from hptransfer.analysis.pipeline import analyze_run, analyze_source, export
from hptransfer.analysis.report.run_context import RunContext
from hptransfer.analysis.report.sections import DASH, group_table
from hptransfer.analysis.tables.sources import TableSource
from hptransfer.cli.main import main
from hptransfer.core.errors import FitError
from hptransfer.core.io import read_json, write_json
from hptransfer.core.records import FAILED, VERIFY, Outcome, Scale
from hptransfer.core.run_folder import RunFolder
from tests.support.landscape import TARGET, add, draw, write_run
from tests.support.slow import slow_except

FILES = ("optima.csv", "fit.json", "prediction.json", "predictions.csv")
HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder whose outcomes come from a known law."""
    table, _ = draw((-0.1, -0.2, -0.35), noise=0.003)
    return write_run(tmp_path / "run", table, name=HOSTILE)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Analysis]:
    """A folder that has been analyzed, not to be written to, and its analysis."""
    table, _ = draw((-0.1, -0.2, -0.35), noise=0.003)
    folder = write_run(tmp_path_factory.mktemp("analyzed") / "run", table, name=HOSTILE)
    return folder, analyze_run(folder)


@pytest.fixture
def analyzed(tmp_path: Path, analysis: tuple[RunFolder, Analysis]) -> RunFolder:
    """A copy of a folder that has been analyzed."""
    shutil.copytree(analysis[0].path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the fit."""
    monkeypatch.setattr(pipeline, "render", lambda *_: "page")
    monkeypatch.setattr(pipeline, "curves_figure", lambda *_: "figure")


@pytest.mark.usefixtures("without_page")
@pytest.mark.parametrize("names", slow_except(["lr", "lr beta2"], "lr"))
def test_a_run_is_analyzed_as_its_records_are(tmp_path: Path, names: str) -> None:
    tuned = tuple(names.split())
    table, _ = draw((-0.1, -0.2, -0.35), noise=0.003)
    if "beta2" in tuned:  # best at 2^-5, and lower where lr is higher
        moved = [table.assign(beta2=2.0**k, loss=table["loss"] + 0.01 * (k + 5) ** 2) for k in (-7, -6, -5, -4)]
        table = pd.concat(moved, ignore_index=True)
    folder = write_run(tmp_path / "run", table, tuned=tuned)
    targets = pd.DataFrame([TARGET, {**TARGET, "width": 64}])
    targets.to_csv(tmp_path / "targets.csv", index=False)
    analyze_run(folder, targets=tmp_path / "targets.csv")
    out = tmp_path / "out"
    columns = {"scales": ("width", "depth", "tokens"), "tuned": tuned, "loss": "loss"}
    source = TableSource(folder.path / "records.csv")
    analyze_source(source, **columns, targets=tmp_path / "targets.csv", out=out, unit="nats")
    for name in FILES:
        assert (out / name).read_text() == (folder.path / name).read_text(), name
    predictions = pd.read_csv(out / "predictions.csv")
    assert list(predictions.columns) == prediction_columns(tuned)
    assert list(predictions["width"]) == [256, 64]


def prediction_columns(tuned: Sequence[str]) -> list[str]:
    """Columns of predictions.csv in their order."""
    ends = ("", "_center", "_low", "_high", "_stable_below", "_outside_tried", "_widened_by")
    of_target = ("risk_expected", "risk_p90", "risk_expected_percent", "risk_p90_percent", "p_diverge")
    values = [f"{name}{end}" for name in tuned for end in ends]
    return ["width", "depth", "tokens", *values, "loss", "loss_low", "loss_high", *of_target, "extrapolation_octaves"]


@pytest.mark.parametrize("option", ["--out", "--scale", "--tune", "--loss", "--columns", "--experiment"])
def test_options_of_a_table_are_refused_for_a_run(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["analyze", str(folder.path), option, "lr"])
    assert end.value.code == 2
    assert f"{option} is not for an analysis of a run" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_records_give_the_same_files(analyzed: RunFolder) -> None:
    first = {name: (analyzed.path / name).read_bytes() for name in (*FILES, "report.html")}
    analyze_run(analyzed)
    assert {name: (analyzed.path / name).read_bytes() for name in first} == first


def test_the_contracts_of_the_files_hold(analyzed: RunFolder) -> None:
    folder = analyzed
    fit, prediction = read_json(folder.path / "fit.json"), read_json(folder.prediction)
    for axis in ("width", "depth", "tokens"):
        exponent = fit["hyperparameters"]["lr"]["exponents"][axis]
        keys = {"value", "low", "high", "se", "verdict", "moves", "factor_to_target", "loss_if_ignored"}
        assert set(exponent) == keys
        assert set(exponent["factor_to_target"]) == {"value", "low", "high"}
        lost = exponent["loss_if_ignored"]
        assert set(lost) == {"value", "low", "high", "p_diverge"}
        assert 0 <= lost["low"] <= lost["value"] <= lost["high"]
        assert lost["p_diverge"] == 0
    assert fit["excluded_runs"] == []
    assert set(prediction["hyperparameters"]["lr"]) == {
        *("value", "center", "low", "high", "stable_below", "outside_tried", "widened_by")
    }
    assert set(prediction["hyperparameters"]["lr"]["widened_by"]) == {"factor", "reason"}
    assert set(prediction["risk"]) == {"expected", "p90", "expected_percent", "p90_percent"}
    assert prediction["p_diverge"] is prediction["hyperparameters"]["lr"]["stable_below"] is None
    assert prediction["target"] == TARGET
    predictions = pd.read_csv(folder.path / "predictions.csv")
    assert list(predictions.columns) == prediction_columns(["lr"])
    for end, key in (("", "value"), ("_center", "center"), ("_low", "low"), ("_high", "high")):
        assert predictions[f"lr{end}"].iloc[0] == prediction["hyperparameters"]["lr"][key], key
    assert len(pd.read_csv(folder.path / "optima.csv")) == 12


@pytest.mark.slow
def test_one_target_of_a_run_keeps_the_axes_that_it_does_not_name(
    folder: RunFolder, without_page: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["analyze", str(folder.path), "--target", "width=64"])
    assert end.value.code == 0, capsys.readouterr().err
    swept = read_json(folder.target)["target"]
    assert swept["width"] != 64
    assert read_json(folder.prediction)["target"] == {**swept, "width": 64}


def test_targets_from_a_file_are_answered_in_order(folder: RunFolder, tmp_path: Path) -> None:
    targets = pd.DataFrame({"width": [512, 64], "depth": [4, 2], "tokens": [2**17, 2**15]})
    targets.to_csv(tmp_path / "targets.csv", index=False)
    analyze_run(folder, targets=tmp_path / "targets.csv")
    predictions = pd.read_csv(folder.path / "predictions.csv")
    assert list(predictions["width"]) == [512, 64]
    assert list(predictions["extrapolation_octaves"]) == [2.0, 0.0]


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_verification_trials_never_enter_the_fit(analyzed: RunFolder) -> None:
    folder = analyzed
    before = (folder.path / "fit.json").read_bytes()
    wrong = {"width": 128, "depth": 4, "tokens": 2**16, "lr": 2.0**-3, "loss": 0.1}
    add(folder, "f" * 12, wrong, purpose=VERIFY)
    analyze_run(folder)
    assert (folder.path / "fit.json").read_bytes() == before
    add(folder, "e" * 12, {**wrong, "lr": 2.0**-6.5, "loss": 2.9})  # the control: a sweep's trial would
    analyze_run(folder)
    assert (folder.path / "fit.json").read_bytes() != before


@pytest.mark.usefixtures("without_page")
def test_failed_and_waiting_trials_are_recorded_and_left_out(folder: RunFolder) -> None:
    trials = folder.read_trials()
    write_json(folder.outcome_path(trials[0].id), Outcome(state=FAILED, error="RuntimeError: x").to_json())
    folder.outcome_path(trials[1].id).unlink()
    analysis = analyze_run(folder)
    records = pd.read_csv(folder.path / "records.csv")
    assert records["state"].value_counts().to_dict() == {"done": len(trials) - 2, "failed": 1, "waiting": 1}
    assert sum(one.runs for one in analysis.fit.optima) == len(trials) - 2


@pytest.mark.slow
def test_failed_trials_are_counted_at_their_own_scale(tmp_path: Path) -> None:
    """Two widths that agree in their first four digits."""
    table, _ = draw((-0.1, -0.2, -0.35), noise=0.003)
    folder = write_run(tmp_path / "run", table)
    for trial in folder.read_trials():
        axes = {**trial.scale.axes, "width": {32: 32 * 1.00011, 64: 32 * 1.00012}.get(trial.scale.axes["width"], 128)}
        folder.write_trial(replace(trial, scale=Scale(axes)))
    failing = next(trial for trial in folder.read_trials() if trial.scale.axes["width"] == 32 * 1.00012)
    write_json(folder.outcome_path(failing.id), Outcome(state=FAILED, error="RuntimeError: x").to_json())
    analyze_run(folder)
    page = folder.report.read_text()
    rows = re.findall(r"<tr><td>(width=[^<]*)</td><td>\d+</td><td>[^<]*</td><td>([^<]*)</td>", page)
    assert [failed for name, failed in rows if "width=32.0038" in name].count("1") == 1
    assert {failed for name, failed in rows if "width=32.0038" not in name} == {"\N{EN DASH}"}


def test_a_run_without_outcomes_says_so(folder: RunFolder) -> None:
    for trial in folder.read_trials():
        folder.outcome_path(trial.id).unlink()
    with pytest.raises(FitError, match="has no finished trial"):
        analyze_run(folder)


@pytest.mark.parametrize("key", slow_except(["untransferred", "unmoved"], "untransferred"))  # as version 0.1 wrote it
def test_the_page_stands_alone(folder: RunFolder, key: str) -> None:
    verification = {
        "scale": TARGET,
        "predicted": {"lr": 0.0070},
        "best": {"lr": 0.0078, "loss": 2.6},
        "regret_nats": 0.002,
        "regret_percent": 0.08,
        "error_octaves": {"lr": -0.15},
        key: {"lr": 0.011, "regret_nats": 0.02, "regret_percent": 0.8},
        "points": [{"lr": 0.007 * 2.0**k, "loss": 2.6 + 0.03 * k**2, "state": "done"} for k in range(-2, 3)],
        "warnings": [],
    }
    write_json(folder.verification, verification)
    analyze_run(folder)
    page = folder.report.read_text()
    assert "$2^" not in page  # figures parse no mathematics
    assert "2\N{SUPERSCRIPT MINUS}" in page
    assert len(page) < 1_000_000
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)|url\((?!#)|@import|https?://""", page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 4 + 3 + 1 + 1 + 2  # curves, laws, verification, extrapolation, residuals
    for words in (
        "Train width=256, depth=4, tokens=131072 with",
        "0.08%",
        "0.80%",
        "-0.15 octaves",
        "does not transfer",
    ):
        assert words in page, words


@pytest.mark.slow
def test_a_verification_of_another_target_is_not_shown(folder: RunFolder) -> None:
    write_json(folder.verification, {"scale": {**TARGET, "width": 512}})
    analyze_run(folder)
    assert "Not verified" in folder.report.read_text()


def test_export_resolves_the_groups_with_the_prediction(analyzed: RunFolder) -> None:
    answer = export(analyzed, lambda axes: pytest.fail("the target is the run's own"))
    value = answer["hyperparameters"]["lr"]["value"]
    assert answer["groups"]["hidden"] == pytest.approx(
        {"lr": value / 4, "eps": 0.25e-8, "weight_decay": 0.4, "momentum": 0.9, "init_std": 0.5, "output_multiplier": 1}
    )
    assert json.loads(json.dumps(answer)) == answer


def test_export_sets_what_was_tuned_where_it_stands(analyzed: RunFolder) -> None:
    """Momentum by what it lacks to 1, and the multiplier of residual branches."""
    folder = analyzed
    target = read_json(folder.target)
    target["branch_multiplier"] = 0.5
    for path, complement in (("run.optimizer.momentum", ["lr"]), ("run.branch.multiplier", [])):
        write_json(folder.target, {**target, "tuned": {"lr": path}, "complement": complement})
        answer = export(folder, lambda axes: pytest.fail("the target is the run's own"))
        value = answer["hyperparameters"]["lr"]["value"]
        tuned = path == "run.optimizer.momentum"
        assert answer["groups"]["hidden"]["momentum"] == pytest.approx(1 - value if tuned else 0.9)
        assert answer["branch_multiplier"] == pytest.approx(0.5 if tuned else 0.5 * value / 2.0)


def test_the_page_shows_every_setting_of_groups_that_differ(analysis: tuple[RunFolder, Analysis]) -> None:
    """Under muon, hidden matrices have a momentum and the rest has betas."""
    folder, found = analysis
    target = read_json(folder.target)
    hidden = target["groups"]["hidden"]
    embedding = {**hidden, "settings": {"lr": 1, "eps": 2.0}, "readout_multiplier": 0.25}
    target["groups"] = {"embedding": embedding, "hidden": hidden}
    target["run"]["constants"]["output"] = {"lr": 1.0, "init": 1.0, "multiplier": 1.0}
    table = group_table(found, RunContext(title="", target=target))
    assert table is not None
    assert table.keys[-3:] == ["init_std", "output_multiplier", "readout_multiplier"]
    assert table.factors == 3
    assert {"lr", "eps", "weight_decay", "momentum"} == set(table.keys[:-3])
    shown = {group: (numbers["momentum"], numbers["readout_multiplier"]) for group, numbers in table.groups.items()}
    assert shown == {"embedding": (DASH, "0.25"), "hidden": ("0.9", DASH)}


def test_numbers_on_disk_are_plain(analysis: tuple[RunFolder, Analysis]) -> None:
    metrics = analysis[1].metrics()
    assert all(type(value) is float for value in metrics.values())
    assert np.isfinite(list(metrics.values())).all()
