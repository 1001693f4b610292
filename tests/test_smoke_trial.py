"""The smoke trial of a script's sweep: it runs alone, once, and what breaks there stops the sweep."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from hptransfer.core.io import write_json
from hptransfer.core.records import DIVERGED, DONE, FAILED, SMOKE, SWEEP, Outcome
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import command, process

SWEEP_FILE = """\
defaults: [sweep, run: script, sampler: grid, launcher: inline, tracker: none, _self_]
name: s
run:
  command: ["{python}", train.py, "--width={width}", "--lr={lr}", "--steps={steps}", "--seed={seed}"]
  names: {steps: 3}
  params: width
  tokens: steps
  metric: {pattern: 'step (?P<step>\\d+) loss (?P<loss>\\S+)'}
grid: {width: {values: [8, 16]}}
space: {lr: {values: [0.01, 0.02, 0.04], extend: 0}}
target: {width: 32}
"""
# Every start leaves a line in starts.txt.
TRAIN = """\
import math, sys
values = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
with open("starts.txt", "a") as starts:
    print(values["width"], values["lr"], values["steps"], values["seed"], file=starts)
width, rate = int(values["width"]), float(values["lr"])
for step in range(1, int(values["steps"]) + 1):
    print(f"step {step} loss {2 + (math.log2(rate * width) + 2) ** 2 / 10 + 1 / step}")
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(SWEEP_FILE)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def sweep(here: Path, *words: str) -> CompletedProcess[str]:
    return command("sweep", "s.yaml", *words, cwd=here)


def starts(here: Path) -> list[str]:
    path = here / "starts.txt"
    return path.read_text().splitlines() if path.exists() else []


def states(here: Path, purpose: str = SWEEP) -> list[str]:
    folder = RunFolder(here / "runs/s")
    outcomes = [folder.read_outcome(trial.id) for trial in folder.read_trials() if trial.purpose == purpose]
    return sorted(outcome.state if outcome else "open" for outcome in outcomes)


def test_the_middle_value_of_the_cheapest_scale_runs_first_and_counts_as_a_trial(here: Path) -> None:
    done = sweep(here)
    assert done.returncode == 0
    assert starts(here)[0] == "8 0.02 3 0"
    assert len(starts(here)) == 6
    assert states(here) == [DONE] * 6
    assert "the smoke trial is done at step 3 with loss" in done.stdout


def test_a_wrong_file_fails_once_and_its_last_lines_are_shown(here: Path) -> None:
    (here / "train.py").write_text("print('begins', flush=True)\nopen('absent.json')\n")
    done = sweep(here)
    assert done.returncode == 3
    assert "the sweep stops at its smoke trial" in done.stdout
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'absent.json'" in done.stdout
    assert states(here) == [FAILED]


def test_a_wrong_pattern_fails_once(here: Path) -> None:
    done = sweep(here, "run.metric.pattern='LOSS (?P<loss>.*)'", "launcher=local")
    assert (done.returncode, len(starts(here))) == (3, 1)
    assert "  step 3 loss " in done.stdout


@pytest.mark.parametrize("correction", ["script", "settings"])
def test_a_sweep_in_which_nothing_has_trained_takes_a_correction_under_its_name(here: Path, correction: str) -> None:
    if correction == "script":
        (here / "train.py").write_text("raise SystemExit('not yet')")
        assert sweep(here).returncode == 3
        (here / "train.py").write_text(TRAIN)
    else:
        assert sweep(here, "run.metric.pattern='LOSS (?P<loss>.*)'").returncode == 3
    assert sweep(here).returncode == 0
    assert states(here) == [DONE] * 6
    earlier = [json.loads(path.read_text()) for path in here.glob("runs/s/earlier/1/trials/*/outcome.json")]
    assert [outcome["state"] for outcome in earlier] == [FAILED]


def test_the_same_command_tries_a_failed_smoke_trial_again(here: Path) -> None:
    """The cause lay outside of the script, such as a missing data folder."""
    (here / "train.py").write_text("open('data.txt')\n" + TRAIN)
    assert sweep(here).returncode == 3
    (here / "data.txt").write_text("")
    assert sweep(here).returncode == 0
    assert len(starts(here)) == 6


def test_a_resumed_sweep_repeats_no_smoke_trial(here: Path) -> None:
    assert sweep(here, "run.smoke={steps: 1}").returncode == 0
    again = sweep(here, "run.smoke={steps: 1}", "seeds=2")
    assert again.returncode == 0
    assert "smoke" not in again.stdout
    assert [line.split()[2] for line in starts(here)].count("1") == 1


def test_a_short_smoke_trial_is_no_trial_of_the_sweep(here: Path) -> None:
    assert sweep(here, "run.smoke={steps: 1}", "run.metric.reduce=mean", "run.metric.points=3").returncode == 0
    assert starts(here)[0] == "8 0.02 1 0"
    assert (states(here), states(here, SMOKE)) == ([DONE] * 6, [DONE])
    table = (here / "runs/s/records.csv").read_text().splitlines()
    assert len(table) == 1 + 6


def test_a_sampler_proposes_the_smoke_trial(here: Path) -> None:
    assert sweep(here, "sampler=random", "sampler.trials=3", "seeds=2").returncode in (0, 6)
    assert len(starts(here)) == 2 * 3 * 2
    assert [line.split()[0] for line in starts(here)][:2] == ["8", "16"]  # one alone, then the costly scale


def test_smoke_false_starts_all_trials_at_once(here: Path) -> None:
    assert sweep(here, "run.smoke=false").returncode == 0
    assert starts(here)[0] == "16 0.01 3 0"


def test_a_smoke_trial_that_diverges_has_run(here: Path) -> None:
    (here / "train.py").write_text(TRAIN.replace("loss {2", "loss {math.nan if rate == 0.02 and width == 8 else 2"))
    sweep(here)
    assert states(here) == [DIVERGED] + [DONE] * 5


def test_a_cancelled_smoke_trial_stops_the_sweep_until_it_is_reset(here: Path) -> None:
    (here / "train.py").write_text("raise SystemExit(1)")
    sweep(here)
    folder = RunFolder(here / "runs/s")
    [trial] = folder.read_trials()
    cancelled = Outcome(state=FAILED, error="cancelled", cause="cancelled")
    write_json(folder.outcome_path(trial.id), cancelled.to_json())
    done = sweep(here)
    assert (done.returncode, "reset it with `hptransfer retry runs/s`" in done.stdout) == (3, True)
    assert states(here) == [FAILED]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{stepz: 1}", "run.smoke: unknown name 'stepz'. Did you mean 'steps'?"),
        ("true", "run.smoke takes values of names, such as {steps: 20}, or false for none, got True"),
        ("{steps: null}", "run.smoke.steps must be a number or text, got None"),
    ],
)
def test_values_of_a_smoke_trial_are_checked(here: Path, value: str, message: str) -> None:
    done = sweep(here, f"run.smoke={value}")
    assert (done.returncode, message in done.stderr) == (2, True)


def test_values_of_a_smoke_trial_change_no_identity(here: Path) -> None:
    assert sweep(here).returncode == 0
    assert sweep(here, "run.smoke={steps: 1}").returncode == 0
    assert len(starts(here)) == 6


def test_try_trains_the_given_values_outside_of_any_run(here: Path) -> None:
    done = process("try", "s.yaml", "width=16", "lr=0.03", "run.smoke={steps: 2}", cwd=here)
    assert done.returncode == 0
    assert starts(here) == ["16 0.03 2 0"]
    assert "--width=16 --lr=0.03 --steps=2 --seed=0" in done.stdout
    assert "step 2 loss " in done.stdout
    assert ", from 2 points up to step 2" in done.stdout
    assert not (here / "runs").exists()
    assert process("try", "s.yaml", "--full", "run.smoke={steps: 2}", cwd=here).returncode == 0
    assert starts(here)[1] == "8 0.02 3 0"


def test_try_ends_with_3_at_a_failure_and_refuses_unknown_names(here: Path) -> None:
    done = command("try", "s.yaml", "witdh=8", cwd=here)
    assert (done.returncode, "Did you mean 'width'" in done.stderr) == (2, True)
    (here / "train.py").write_text("raise SystemExit('no data')")
    done = process("try", "s.yaml", cwd=here)
    assert done.returncode == 3
    assert "failed after" in done.stdout
    assert "no data" in done.stdout
