"""Scales that print alike are different scales wherever the driver identifies them."""

from pathlib import Path

import optuna
import pytest
import yaml

from hptransfer.config.compose import compose
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.io import write_json
from hptransfer.core.records import DONE, FAILED, SWEEP, VERIFY, Job, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import PILOT_FAILED, PILOT_RUNNING, read_driver_state
from hptransfer.driver.optuna_studies import Studies
from hptransfer.launchers import JobEnd
from hptransfer.samplers.random import RandomConfig
from tests.support.helpers import outcomes
from tests.support.scripted import Scripted, drive, train
from tests.support.scripts import SWEEP as SCRIPT_SWEEP
from tests.support.views import studies

ALIKE = [Scale({"ratio": 1.00011}), Scale({"ratio": 1.00012})]


def trial_at(scale: Scale) -> Trial:
    values = {"tuned": {"lr": 0.1}, "seed": 0, "run": {}, "flops": 1.0, "params": 1}
    return Trial(id=scale.key, scale=scale, **values)  # type: ignore[arg-type]


def open_studies(folder: RunFolder) -> Studies:
    folder.create()
    return Studies(folder, RandomConfig(name="random"), {"lr": (0.01, 1.0)}, {"lr": True})


@pytest.mark.parametrize("purpose", [SWEEP, VERIFY])
def test_scales_that_print_alike_have_studies_of_their_own(tmp_path: Path, purpose: str) -> None:
    assert len({scale.name for scale in ALIKE}) == 1
    folder = RunFolder(tmp_path)
    written = open_studies(folder)
    for loss, trial in enumerate(map(trial_at, ALIKE)):
        outcome = Outcome(state=DONE, loss=float(loss))
        written.tell(Trial(**{**vars(trial), "purpose": purpose}), outcome)
    prefix = "verify " if purpose == VERIFY else ""
    shown = studies(folder)
    assert set(shown) == {f"{prefix}ratio=1.00011", f"{prefix}ratio=1.00012"}
    values = [[trial.value for trial in shown[f"{prefix}{scale.key}"].trials] for scale in ALIKE]
    assert values == [[0.0], [1.0]]


def test_a_sampler_learns_of_its_own_scale_alone(tmp_path: Path) -> None:
    written = open_studies(RunFolder(tmp_path))
    numbers = [written.ask(scale, SWEEP)[0] for scale in ALIKE]
    assert numbers == [0, 0]


def staged_sweep(folder: Path) -> SweepConfig:
    """A sweep of a script over scales that print alike, under stage=first."""
    run = {"command": ["{python}", "train.py", "{ratio}", "{lr}"], "params": 1000, "tokens": 1000, "cwd": str(folder)}
    grid = {"ratio": {"values": [scale.axes["ratio"] for scale in ALIKE]}}
    path = folder / "alike.yaml"
    path.write_text(yaml.safe_dump({**SCRIPT_SWEEP, "name": "alike", "run": run, "grid": grid, "target": {"ratio": 2}}))
    return compose(str(path), [f"runs={folder / 'runs'}", "stage=first", "space.lr.extend=0"])


def test_scales_that_print_alike_have_pilot_trials_of_their_own(tmp_path: Path) -> None:
    """The pilot trial of one scale fails: its others wait, those of the scale that prints alike are trained."""
    config = staged_sweep(tmp_path)
    failing, passing = ALIKE
    while_running: list[dict[str, str]] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd:
        while_running.append(read_driver_state(folder)["held"])
        if job.scale == failing:
            outcome = Outcome(state=FAILED, error="boom")
            write_json(folder.outcome_path(job.trials[0]), outcome.to_json())
        return train(folder, job)

    launcher = Scripted(fate, slots=2)
    summary = drive(config, launcher)
    assert while_running[0] == {failing.key: PILOT_RUNNING, passing.key: PILOT_RUNNING}
    assert [(job.scale.key, len(job.trials)) for job in launcher.calls[0]] == [(failing.key, 1), (passing.key, 1)]
    states = outcomes(config.folder)
    by_scale = {scale.key: [states[t.id] for t in config.folder.read_trials() if t.scale == scale] for scale in ALIKE}
    assert sorted(by_scale[failing.key]) == [FAILED, *["open"] * 6]
    assert by_scale[passing.key] == [DONE] * 7
    assert read_driver_state(config.folder)["held"] == {failing.key: PILOT_FAILED}
    assert summary.waiting_for_pilot == [f"{failing.key}: {PILOT_FAILED}"]


def test_reasons_in_a_driver_json_of_an_earlier_version_are_recognized(tmp_path: Path) -> None:
    old = {
        "width=16": "its first trial failed, the others are held back (stage=first)",
        "width=32": "waits for its scale's first trial (stage=first)",
    }
    write_json(tmp_path / "driver.json", {"held": old, "delayed": {}, "blocked": None})
    assert read_driver_state(RunFolder(tmp_path))["held"] == {"width=16": PILOT_FAILED, "width=32": PILOT_RUNNING}


def test_a_journal_of_whole_numbers_keeps_the_names_of_its_studies(tmp_path: Path) -> None:
    """The control: a run that was started before goes on in the same studies."""
    scale = Scale({"width": 16, "tokens": 32768})
    folder = RunFolder(tmp_path)
    open_studies(folder).start(trial_at(scale))
    assert scale.key == scale.name == "width=16,tokens=32768"
    assert studies(folder)[scale.name].trials[0].state == optuna.trial.TrialState.RUNNING
