"""Two sweeps side by side: what each exponent is, and what one parameterization gives away to the other."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis import Analysis, analyze, pipeline
from hptransfer.analysis.pipeline import analyze_run
from hptransfer.analysis.report.comparison import compare_sweeps
from hptransfer.cli.main import main
from hptransfer.core.errors import FitError
from hptransfer.core.run_folder import RunFolder
from tests.support.landscape import COLUMNS, TARGET, draw, write_run

MUP, SP = (-0.05, -0.2, -0.35), (-1.0, -0.2, -0.35)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two runs to write to."""
    return write_runs(tmp_path)


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, Analysis]:
    """Analyses of two runs, each by itself. No page is drawn, which takes longer than the fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "render", lambda *_: "page")
        patch.setattr(pipeline, "curves_figure", lambda *_: "figure")
        mup, sp = (analyze_run(folder) for folder in write_runs(tmp_path_factory.mktemp("analyzed")))
    return mup, sp


def write_runs(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """One like muP, and one like SP that is 0.05 nats worse at every scale."""
    mup, sp = (draw(powers, noise=0.003)[0] for powers in (MUP, SP))
    worse = sp.assign(loss=sp["loss"] + 0.05)
    return write_run(tmp_path / "mup", mup), write_run(tmp_path / "sp", worse, parameterization="sp")


@pytest.mark.slow
def test_a_run_against_another(runs: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str]) -> None:
    mup, sp = runs
    with pytest.raises(SystemExit) as end:
        main(["analyze", str(mup.path), "--against", str(sp.path)])
    assert end.value.code == 0
    page = mup.report.read_text()
    assert "<h2>mup against sp</h2>" in page
    assert "<th>along</th><th>mup</th><th>sp</th>" in page
    assert "<th>loss, mup</th><th>loss, sp</th><th>sp minus mup</th><th>cost of reuse, mup</th>" in page
    row = next(line for line in re.findall(r"<tr>.*?</tr>", page) if "<td>width</td>" in line and "[" in line)
    assert re.search(r"] (?:moves, )?transfers</td>.*] moves, does not transfer</td>", row)
    assert not sp.report.exists()  # the other is read, nothing is written there
    analyze_run(mup)
    assert "mup against" not in mup.report.read_text()  # the control


@pytest.mark.slow
def test_runs_whose_folders_are_called_alike_are_told_apart(runs: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    table, _ = draw(MUP, noise=0.003)
    (tmp_path / "before").mkdir()
    other = write_run(tmp_path / "before" / "mup", table)
    analyze_run(runs[0], against=other)
    assert f"<h2>{runs[0].path} against {other.path}</h2>" in runs[0].report.read_text()


def test_what_is_given_away(analyzed: tuple[Analysis, Analysis]) -> None:
    one, other = analyzed
    found = compare_sweeps(one, other)
    assert [row.axis for row in found.exponents] == ["width", "depth", "tokens"]
    *scales, target = found.losses
    assert len(scales) == 12
    assert [float(row.difference) for row in scales] == pytest.approx([0.05] * 12, abs=0.005)
    assert target.name == "target, predicted"
    # from width 32 to 256 SP's best rate falls by three octaves, muP's hardly: 0.03 nats an octave squared
    assert float(target.second_untransferred) > 5 * float(target.first_untransferred)
    mirrored = compare_sweeps(other, one).losses
    assert [float(row.difference) for row in mirrored[:-1]] == pytest.approx([-0.05] * 12, abs=0.005)


@pytest.mark.slow
def test_losses_at_scales_that_only_one_has_are_left_out(analyzed: tuple[Analysis, Analysis], tmp_path: Path) -> None:
    table, _ = draw(MUP, noise=0.003)
    fewer = write_run(tmp_path / "fewer", table[table["width"] > 32])
    found = compare_sweeps(analyzed[0], analyze_run(fewer))
    assert len(found.losses) == 8 + 1


@pytest.mark.slow
def test_scales_that_are_nearly_the_same_are_different_ones() -> None:
    """Sizes that agree in their first four digits, as scales are printed elsewhere."""
    alike = [draw(MUP, noise=0.003)[0].replace({"width": {32: 1.00011 * 2**k, 64: 1.00012 * 2**k}}) for k in (5, 5)]
    alike[1] = alike[1].assign(loss=alike[1]["loss"] + np.where(alike[1]["width"] == 1.00012 * 2**5, 0.3, 0.1))
    one, other = (analyze(table, scale=COLUMNS.scales, tune=["lr"], targets=[TARGET]) for table in alike)
    losses = compare_sweeps(one, other).losses[:-1]
    assert len({row.name for row in losses}) == len(losses) == 12
    for row in losses:
        wanted = 0.3 if row.name.startswith("width=32.0038,") else 0.1
        assert float(row.difference) == pytest.approx(wanted, abs=0.01), row


@pytest.mark.slow
def test_runs_that_tuned_something_else_are_refused(runs: tuple[RunFolder, RunFolder], tmp_path: Path) -> None:
    table, _ = draw(MUP, noise=0.003)
    table = table.rename(columns={"lr": "beta2"}).assign(lr=0.1)
    other = write_run(tmp_path / "other", table, tuned=("beta2",))
    with pytest.raises(FitError, match=r"cannot be compared: .* and lr here, .* and beta2 there"):
        analyze_run(runs[0], against=other)
    assert not (runs[0].path / "report.html").exists()


def test_a_run_over_another_axis_is_refused(
    runs: tuple[RunFolder, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = runs[1].target.read_text().replace('"tokens"', '"heads"')
    runs[1].target.write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["analyze", str(runs[0].path), "--against", str(runs[1].path)])
    assert end.value.code == 6
    assert "has an axis heads that this run has not" in capsys.readouterr().err


@pytest.mark.slow
def test_a_target_for_which_only_one_predicts_is_not_compared(
    runs: tuple[RunFolder, RunFolder], analyzed: tuple[Analysis, Analysis], tmp_path: Path
) -> None:
    pd.DataFrame([{**TARGET, "width": 512}]).to_csv(tmp_path / "targets.csv", index=False)
    one = analyze_run(runs[0], targets=tmp_path / "targets.csv")
    assert "target, predicted" not in [row.name for row in compare_sweeps(one, analyzed[1]).losses]
