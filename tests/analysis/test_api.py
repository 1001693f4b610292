"""The analysis of a DataFrame: its results in a notebook, and priors by names."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hptransfer.analysis
from hptransfer.analysis import Analysis, ConfigError, FitError, analyze
from hptransfer.analysis.pipeline import analyze_file
from hptransfer.analysis.report.exports import FORMATS, write_formats
from tests.support.helpers import environment
from tests.support.landscape import COLUMNS, TARGET, draw


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return draw((-0.1, -0.2, -0.35), noise=0.003)[0]


@pytest.fixture(scope="module")
def found(runs: pd.DataFrame) -> Analysis:
    return analyze(runs, scale=COLUMNS.scales, tune=COLUMNS.tuned, targets=[TARGET, {**TARGET, "width": 64}])


@pytest.mark.slow
def test_the_tables_say_what_the_files_say(found: Analysis, runs: pd.DataFrame, tmp_path: Path) -> None:
    runs.to_csv(tmp_path / "runs.csv", index=False)
    found.predictions[list(COLUMNS.scales)].to_csv(tmp_path / "targets.csv", index=False)
    files = {"targets": tmp_path / "targets.csv", "out": tmp_path / "out"}
    analyze_file(tmp_path / "runs.csv", scales=COLUMNS.scales, tuned=COLUMNS.tuned, loss="loss", **files)
    for name in ("predictions", "optima"):
        written = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        pd.testing.assert_frame_equal(written, getattr(found, name), check_dtype=False, rtol=1e-6)


def test_the_tables_have_a_row_for_each(found: Analysis) -> None:
    assert len(found.predictions) == 2
    assert list(found.exponents["axis"]) == ["width", "depth", "tokens"]
    assert len(found.optima) == len(found.held_out) == 12
    assert {"lr_error_octaves", "lr_covered", "regret", "regret_percent"} <= set(found.held_out)


def test_figures_and_the_page(found: Analysis) -> None:
    figures = found.figures()
    assert {"law_lr_width", "law_lr_depth", "law_lr_tokens", "extrapolation"} <= set(figures)
    page = found.report_html("ours")
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == len(figures)
    assert "hptransfer verify" not in page  # which only a run can be
    assert "All targets" in page


def test_the_page_lists_every_run_that_was_left_out() -> None:
    rows = [
        {"width": width, "lr": 2.0**k, "loss": 3 + 0.03 * (k + 8) ** 2 + 0.01 * math.log2(width) + 4.0 * (k > -5)}
        for width in (32, 64, 128)
        for k in range(-12, -2)
    ]
    found = analyze(pd.DataFrame(rows), scale=["width"], tune=["lr"], targets=[{"width": 256}])
    assert len(found.fit.excluded) > 4
    folded = found.report_html().partition("<details><summary>All ")[2].partition("</details>")[0]
    for run in found.fit.excluded:
        assert f'<td>{run.row}</td><td class="word">{run.reason}</td><td>{run.excess:+.2g}</td>' in folded


@pytest.mark.slow
def test_a_frame_is_left_as_it_was(runs: pd.DataFrame) -> None:
    before = runs.copy()
    targets = pd.DataFrame([TARGET], index=[7])
    analyze(runs, scale=COLUMNS.scales, tune=["lr"], targets=targets)
    pd.testing.assert_frame_equal(runs, before)
    assert list(targets.index) == [7]


def test_what_is_wrong_is_one_line(runs: pd.DataFrame) -> None:
    scale = COLUMNS.scales
    with pytest.raises(ConfigError, match="the table: unknown column 'rate'"):
        analyze(runs, scale=scale, tune=["rate"], targets=[TARGET])
    with pytest.raises(ConfigError, match="targets: unknown column 'tokens'"):
        analyze(runs, scale=scale, tune=["lr"], targets=[{"width": 1, "depth": 1}])
    with pytest.raises(ConfigError, match="unknown law 'cubic'"):
        analyze(runs, scale=scale, tune=["lr"], targets=[TARGET], laws=["cubic"])
    with pytest.raises(ConfigError, match="2 columns are called 'lr'"):
        analyze(pd.concat([runs, runs[["lr"]]], axis=1), scale=scale, tune=["lr"], targets=[TARGET])
    with pytest.raises(FitError, match="all runs are at one scale"):
        analyze(runs[: len(runs) // 12], scale=scale, tune=["lr"], targets=[TARGET])


@pytest.mark.slow
def test_states_are_known_in_the_words_of_other_tools(runs: pd.DataFrame) -> None:
    state = np.where(np.arange(len(runs)) % 10 == 4, "CRASHED", "Finished")
    odd = runs.assign(state=state, loss=runs["loss"].where(state == "Finished", 1e-3))
    one = analyze(odd, scale=COLUMNS.scales, tune=["lr"], targets=[TARGET])
    assert one.optima["runs"].sum() == (state == "Finished").sum()


def few(name: str = "batch_size") -> pd.DataFrame:
    """Five runs at each of two token budgets that hardly say where the optimum is."""
    rows = [
        {"tokens": d, name: 2.0**k, "loss": 3 - 0.02 * math.log2(d / 1e8) + 8e-4 * (k - 6) ** 2 + 1e-3 * (k % 2)}
        for d in (1e8, 4e8)
        for k in (4, 5, 6, 7, 8)
    ]
    return pd.DataFrame(rows)


def test_without_a_prior_a_name_says_nothing() -> None:
    """As if the column were called something that nothing is known of."""
    target = [{"tokens": 6.4e9}]
    named, unnamed = (
        analyze(few(), scale=["tokens"], tune=["batch_size"], targets=target, prior=prior) for prior in (True, False)
    )
    other = analyze(few("knob"), scale=["tokens"], tune=["knob"], targets=target)
    assert unnamed.predictions.to_numpy(float) == pytest.approx(other.predictions.to_numpy(float), nan_ok=True)
    assert unnamed.fit.published_priors == []
    assert "published laws: batch_size" not in unnamed.report_html()
    # the control: published laws have the batch size grow with the tokens
    assert named.fit.published_priors == ["batch_size along tokens +0.5 \N{PLUS-MINUS SIGN} 0.25"]
    assert "published laws: batch_size" in named.report_html()
    assert named.predictions["batch_size"].iloc[0] > 1.5 * unnamed.predictions["batch_size"].iloc[0]
    assert named.exponents["value"].iloc[0] > unnamed.exponents["value"].iloc[0] + 0.1


@pytest.mark.slow
def test_many_runs_need_no_prior(runs: pd.DataFrame, found: Analysis) -> None:
    bare = analyze(runs, scale=COLUMNS.scales, tune=["lr"], targets=[TARGET], prior=False)
    assert abs(math.log2(bare.predictions["lr"].iloc[0] / found.predictions["lr"].iloc[0])) < 0.05


@pytest.mark.slow
def test_every_format_is_written(found: Analysis, tmp_path: Path) -> None:
    from PIL import Image

    write_formats(found, tmp_path, FORMATS)
    for name in found.figures():
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert image.width > 600
            assert image.convert("L").getextrema()[0] < 100  # something is drawn
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()
    for name in ("exponents", "held_out", "optima", "predictions"):
        rows = json.loads((tmp_path / "tables" / f"{name}.json").read_text())
        written = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
        assert len(rows) == len(written) == len(getattr(found, name))
        assert set(rows[0]) == set(written.columns) == set(getattr(found, name).columns)


def test_no_format_writes_nothing(found: Analysis, tmp_path: Path) -> None:
    write_formats(found, tmp_path, ())
    assert list(tmp_path.iterdir()) == []


def test_its_names_are_imported_when_asked_for() -> None:
    assert set(dir(hptransfer.analysis)) == {"Analysis", "ConfigError", "FitError", "analyze"}
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        hptransfer.analysis.analyse  # noqa: B018
    code = (
        "import sys, hptransfer.analysis as a; print([m for m in ('scipy', 'pandas', 'numpy') if m in sys.modules]);"
        "a.analyze; print('scipy' in sys.modules, 'torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "True False False"]
