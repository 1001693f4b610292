"""Exit codes by the end of a sweep; the same command resumes after each."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.core.io import write_json
from hptransfer.core.records import DIVERGED, DONE, Outcome
from hptransfer.worker.runners.builtin import BuiltinRunner
from tests.support.helpers import INLINE, ONE_SCALE, environment, finished_run, start, sweep_arguments
from tests.support.slow import slow_except

VALUES = ("space.lr.low=0.001953125", "space.lr.high=0.125", "space.lr.count=7", "space.lr.extend=3")


def code(runs: Path, *overrides: str) -> int:
    with pytest.raises(SystemExit) as end:
        main([*sweep_arguments(runs, *INLINE, *VALUES, *overrides)])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.slow
def test_a_sweep_that_is_done_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path) == 0
    out = capsys.readouterr().out
    assert "recommended lr for width=64" in out
    assert f"report: {tmp_path}/quickstart/report.html" in out


def test_failed_trials_are_3_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = BuiltinRunner.execute

    def sabotaged(self: BuiltinRunner, trials: Any, *rest: Any) -> None:
        if any(trial.tuned["lr"] < 0.003 for trial in trials):
            raise RuntimeError("out of luck")
        train(self, trials, *rest)

    monkeypatch.setattr(BuiltinRunner, "execute", sabotaged)
    assert code(tmp_path) == 3
    out = capsys.readouterr().out
    assert "2 trials failed; `hptransfer logs RUN TRIAL` shows why" in out
    assert "RuntimeError: out of luck" in out
    assert "recommended lr" in out


@pytest.mark.slow
def test_a_spent_budget_is_4_and_more_budget_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path, "budget.trials=10") == 4
    out = capsys.readouterr().out
    assert "the budget is spent; missing:" in out
    assert "width=32,depth=1,tokens=4096: 4 trials not run" in out
    assert "recommended lr for width=64" in out
    assert "4 of 14 trials are not finished" in out
    assert "comes mostly from its prior: lr along width" in out
    assert code(tmp_path) == 0


@pytest.mark.parametrize("budget", ["budget.device_hours=1e-9", "budget.trials=1", "budget.flops=1"])
def test_a_budget_for_next_to_nothing_is_4_without_a_recommendation(
    budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(tmp_path, budget) == 4
    assert "no recommendation yet" in capsys.readouterr().out


def test_a_budget_that_ends_before_an_optimum_is_bracketed_is_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = ("space.lr.low=0.0005", "space.lr.high=0.002", "space.lr.count=3")
    assert code(tmp_path, *ONE_SCALE, *low, "budget.trials=4") == 4
    assert "best lr 0.004 of 0.0005 to 0.004; 0.008 was to be next" in capsys.readouterr().out


def test_no_law_is_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path, "space.lr.low=1e-7", "space.lr.high=1e-5", "space.lr.extend=0") == 6
    assert "no optimum of lr lies inside the tried values" in capsys.readouterr().err


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line in this process and return its one line of error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("plan", "quickstart", "--foo"),
            "plan: unknown option '--foo'. Known: --help, -h; see `hptransfer plan --help`",
        ),
        (("analyze", "--tabel", "x.csv"), "Did you mean '--table'?"),
        (("plan",), "plan: the following arguments are required: SWEEP; see"),
        (("export", "r", "--format", "toml"), "argument --format: invalid choice: 'toml'"),
        (("coord-check", "run/modle=mlp"), "unknown choice of a run 'modle'. Did you mean 'model'?"),
        (("coord-check", "+foo=1"), "foo: unknown key 'foo'. Known: check, depths, run, seeds, steps, widths"),
        (("coord-check", "model=mlp"), "there is run/model"),
        (("coord-check", "run.model=mlp"), "choose it as run/model=mlp"),
        (("coord-check", "+run/model=mlp"), "give it once, without a +"),
        (("coord-check", "widths=[]"), "widths must be at least three different numbers above 0, got []"),
        (("coord-check", "check=depth", "depths=[]"), "depths must be at least three different numbers above 0, got"),
        (("coord-check", "check=depth"), "run/model=mlp has no residual branches; take run/model=moe or resmlp"),
        (("coord-check", "run.data_seed=-1"), "run.data_seed must be at least 0, got -1"),
        (("coord-check", "run.runner=foo"), "unknown runner 'foo'. Known: builtin"),
        (("coord-check", "run/model=vit", "run.model.patch=3"), "8 x 8 pixels, got 3; take 2 or 4"),
        (
            ("coord-check", "run/model=resnet", "run.model.depth=4", "run.model.stages=3"),
            "got 4; take 3 or 6, or other",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_the_way_out(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, *arguments)


FILES = ("sweep.yaml", "target.json", "trials/{}/trial.json", "trials/{}/outcome.json")
DAMAGE = ("", "{", '{"schema": 1}', '{"schema": "x"}', '{"schema": 1, "state": "done", "loss": NaN}', "a: [")


@pytest.mark.parametrize(
    ("file", "content"),
    slow_except(
        itertools.product(FILES, DAMAGE),
        *zip(FILES, DAMAGE[1:], strict=False),
        ("sweep.yaml", "a: ["),
        ("trials/{}/trial.json", ""),
        ("trials/{}/trial.json", '{"schema": 1}'),
    ),
)
def test_a_damaged_file_is_one_line_that_names_it(
    file: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run(again(tmp_path)[2:])
    damaged = folder.path / file.format(folder.read_trials()[0].id)
    damaged.write_text(content)
    for arguments in (["status", str(folder.path)], ["analyze", str(folder.path)], list(again(tmp_path))):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        error = capsys.readouterr().err
        if end.value.code:  # status does not read all of them
            assert end.value.code == 2
            assert str(damaged) in error
            assert len(error.splitlines()) == 1
    assert end.value.code == 2  # sweep reads all


def again(runs: Path) -> Sequence[str]:
    return sweep_arguments(runs, *INLINE, *VALUES)


def test_export_resolves_the_groups_of_the_predicted_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for another target than the run's own, whose groups have other values."""
    folder = finished_run(again(tmp_path)[2:])
    targets = tmp_path / "targets.csv"
    found = {}
    for width in (64, 512):
        targets.write_text(f"width,depth,tokens\n{width},1,4096\n")
        for arguments in (["analyze", str(folder.path), "--targets", str(targets)], ["export", str(folder.path)]):
            with pytest.raises(SystemExit):
                main(arguments)
            out = capsys.readouterr().out
        found[width] = json.loads(out)
        assert found[width]["target"]["width"] == width
        page = folder.report.read_text()
        assert ("Settings of the target" in page) == (width == 64)
    rates = {
        width: answer["groups"]["hidden"]["lr"] / answer["hyperparameters"]["lr"]["value"]
        for width, answer in found.items()
    }
    assert rates[64] == 8 * rates[512]


def test_a_partial_run_says_that_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run(again(tmp_path)[2:])
    folder.outcome_path(folder.read_trials()[0].id).unlink()
    with pytest.raises(SystemExit):
        main(["analyze", str(folder.path)])
    assert "warning: 1 of 14 trials are not finished" in capsys.readouterr().out


def test_results_that_cannot_be_written_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run(again(tmp_path)[2:])
    with pytest.raises(SystemExit):
        main(["analyze", str(folder.path)])
    capsys.readouterr()
    targets = tmp_path / "targets.csv"
    targets.write_text("width\n64\n")
    (tmp_path / "file").write_text("")
    table = ["--table", str(folder.path / "records.csv"), "--scale", "width", "--tune", "lr", "--targets", str(targets)]
    out = str(tmp_path / "file" / "out")
    assert "cannot be written" in fails(capsys, "analyze", *table, "--out", out)
    assert "cannot be written" in fails(capsys, "coord-check", "--out", out)


@pytest.mark.parametrize("width", ["nan", "inf", "-1", "0"])
def test_a_scale_to_verify_is_checked(width: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run(again(tmp_path)[2:])
    assert "width must be numbers above 0" in fails(capsys, "verify", str(folder.path), f"width={width}")


def test_a_reader_that_stops_early_is_no_bug(tmp_path: Path) -> None:
    folder = finished_run(again(tmp_path)[2:])
    with start("status", str(folder.path)) as status:
        status.stdout.close()  # before anything is written
        assert status.wait() == 0


@pytest.mark.slow
def test_diverged_runs_are_not_called_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_run(again(tmp_path)[2:])
    highest = max(folder.read_trials(), key=lambda trial: trial.tuned["lr"])
    for steps, warned in ((1, False), (20, True)):
        outcome = Outcome(state=DIVERGED, steps=1) if steps == 1 else Outcome(state=DONE, loss=5.0, steps=20)
        write_json(folder.outcome_path(highest.id), outcome.to_json())
        with pytest.raises(SystemExit):
            main(["analyze", str(folder.path)])
        assert ("may differ from that of long training" in capsys.readouterr().out) == warned


def test_bad_input_is_2_and_writes_nothing(tmp_path: Path) -> None:
    assert code(tmp_path, "run.batch=0") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("depths=[4,8,16]",),
            "override 'depths=[4,8,16]' would do nothing: check=width trains over widths; set widths",
        ),
        (
            ("check=depth", "run/model=resmlp", "widths=[4,8,16]"),
            "override 'widths=[4,8,16]' would do nothing: check=depth trains over depths; set depths",
        ),
        (
            ("run.model.width=64",),
            "override 'run.model.width=64' would do nothing: check=width trains at each of widths; set widths",
        ),
        (
            ("check=depth", "run/model=resmlp", "run.model.depth=4"),
            "override 'run.model.depth=4' would do nothing: check=depth trains at each of depths; set depths",
        ),
        (
            ("check=spectral", "run.schedule.shape=cosine"),
            "override 'run.schedule.shape=cosine' would do nothing: check=spectral trains at the peak rate from its "
            "first step on; leave it out, or take check=wider or convergence",
        ),
        (
            ("check=wider", "steps=5"),
            "override 'steps=5' would do nothing: check=wider trains the run's whole budget; set run.tokens",
        ),
        (("check=one-layer", "steps=5"), "override 'steps=5' would do nothing: check=one-layer takes one step"),
        (("run.loss=training",), "override 'run.loss=training' would do nothing: check=width judges activations"),
        (("run.compile=true",), "override 'run.compile=true' would do nothing: check=width judges numbers"),
        (("check=wider", "run.tokens=48"), "check=wider compares 8 windows of a run over seeds, got"),
        (("run.tokens=64",), "override 'run.tokens=64' would do nothing: check=width trains for the number of steps"),
        (("check=one_layer",), "check: unknown check 'one_layer'. Did you mean 'one-layer'?"),
        (("check=depth",), "check=depth: run/model=mlp has no residual branches"),
        (("run/model=moe", "run/optimizer=kfac"), "run.optimizer=kfac has no factors for ExpertLinear"),
    ],
)
def test_what_a_check_would_ignore_or_cannot_do_is_2_and_leaves_no_folder(
    overrides: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, "coord-check", *overrides, "--out", str(tmp_path / "some" / "check"))
    assert list(tmp_path.iterdir()) == []


SMALL = ("widths=[8,16,32]", "seeds=1")


@pytest.mark.slow
def test_what_a_check_reads_is_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for overrides in (("steps=1", "run.model.depth=2"), ("check=one-layer", "run.batch=2")):
        with pytest.raises(SystemExit) as end:
            main(["coord-check", *SMALL, *overrides])
        assert end.value.code in (0, 1)
    assert capsys.readouterr().err == ""


def test_a_check_that_judges_nothing_says_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["coord-check", "check=alignment", "steps=1", *SMALL])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "measured only, without pass or fail: 0.5 means no alignment, 1 full alignment" in out
    assert "passed" not in out


def test_an_interrupted_check_says_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("hptransfer.coordcheck.run.run_check", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["coord-check", "check=wider", "--out", str(tmp_path / "check")])
    assert end.value.code == 130
    error = capsys.readouterr().err
    assert error == "hptransfer: interrupted; a check keeps no results, and the same command restarts it\n"
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_a_full_disk_and_no_bug() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hptransfer", "list"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == 5
        assert b"stopped: writing the output failed (No space left on device)" in done.stderr
        silent = [sys.executable, "-m", "hptransfer", "status", "no-such-run"]
        assert subprocess.run(silent, env=environment(), stderr=full, check=False).returncode == 2
