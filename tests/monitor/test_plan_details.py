"""Lines of `plan` beside its table: values, commands, what is there, and the cost of a verification."""

import json
from pathlib import Path

from tests.support.helpers import command, finished_run

SWEEP = """\
defaults: [sweep, run: script, sampler: grid, launcher: inline, tracker: none, _self_]
name: s
run:
  command: ["{python}", train.py, "--width={width}", "--lr={lr}", "--seed={seed}", "--out={trial_dir}/a b"]
  params: width
  tokens: 1000
grid: {width: {values: [8, 16]}}
space: {lr: {values: [0.01, 0.02, 0.04], extend: 2}}
seeds: 2
target: {width: 32}
"""


def plan(folder: Path, *words: str) -> str:
    (folder / "s.yaml").write_text(SWEEP)
    (folder / "train.py").write_text("print('loss 1')")
    done = command("plan", "s.yaml", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_first_and_the_last_trial_are_shown_with_their_values(tmp_path: Path) -> None:
    out = plan(tmp_path)
    first, last = out.index("first trial, which runs alone: width=8 lr=0.02 seed=0"), out.index("last trial: width=16")
    assert "train.py --width=8 --lr=0.02 --seed=0 '--out=" in out[first:last]
    assert "train.py --width=16 --lr=0.04 --seed=1 '--out=" in out[last:]
    assert "lr: 0.01, 0.02, 0.04; up to 2 more on a side whose edge is best" in out
    assert not (tmp_path / "runs").exists()


def test_a_short_smoke_trial_is_shown_with_its_own_values(tmp_path: Path) -> None:
    out = plan(tmp_path, "+run.names.steps=100", "run.command.1='{steps}'", "run.smoke={steps: 5}")
    smoke, first = out.index("smoke trial, which runs alone: width=8"), out.index("first trial: width=8 lr=0.02")
    assert " 5 --width=8" in out[smoke:first]
    assert " 100 --width=8" in out[first:]


def test_a_verification_is_priced(tmp_path: Path) -> None:
    """Five points with two seeds, 6 * 32 * 1000 FLOPs each; the sweep has 2 * 3 * 6 * 24 * 1000."""
    out = plan(tmp_path)
    assert "a verification would train the target 10 times: 1.92e+06 FLOPs, 2.22 times the sweep" in out


def test_what_is_there_and_what_is_left_is_counted(tmp_path: Path) -> None:
    out = plan(tmp_path)
    assert f"in runs/s already: nothing; left: 12 trials, {12 * 6 * 12 * 1000:.3g} FLOPs" in out
    words = [f"runs={tmp_path}", "grid.width.values=[32]", "target.width=32", "grid.depth.values=[2]", "target.depth=2"]
    folder = finished_run(words)
    paths = sorted(folder.path.glob("trials/*/outcome.json"))
    paths[0].unlink()
    failed = json.loads(paths[1].read_text()) | {"state": "failed", "loss": None, "error": "x", "cause": "code error"}
    paths[1].write_text(json.dumps(failed))
    done = command("plan", "quickstart", *words)
    assert f"{len(paths) - 2} done" in done.stdout
    assert "1 failed" in done.stdout
    assert "; left: 1 trials, " in done.stdout
    assert "`hptransfer retry` trains failed ones again" in done.stdout


def test_a_script_without_a_time_limit_is_said(tmp_path: Path) -> None:
    assert "no time limit: a trial that hangs is warned of and not ended" in plan(tmp_path)
    assert "no time limit" not in plan(tmp_path, "run.timeout_s=60")
    assert "no time limit" not in plan(tmp_path, "run.timeout_factor=4")
