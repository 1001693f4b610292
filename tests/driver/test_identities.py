"""Scales that print alike are different scales wherever the driver identifies them."""

import json
from pathlib import Path

import optuna
import pytest

from hptransfer.core.io import write_json
from hptransfer.core.records import DONE, SWEEP, VERIFY, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver_state import PILOT_FAILED, PILOT_RUNNING, DriverState, read_driver_state
from hptransfer.driver.optuna_studies import Studies
from hptransfer.samplers.random import RandomConfig
from tests.support.views import studies

ALIKE = [Scale({"ratio": 1.00011}), Scale({"ratio": 1.00012})]


def trial_at(scale: Scale) -> Trial:
    values = {"tuned": {"lr": 0.1}, "seed": 0, "run": {}, "flops": 1.0, "params": 1}
    return Trial(id=scale.key, scale=scale, **values)  # type: ignore[arg-type]


def open_studies(folder: RunFolder) -> Studies:
    return Studies(folder.journal, RandomConfig(name="random"), {"lr": (0.01, 1.0)}, {"lr": True})


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


def test_what_waits_for_a_pilot_trial_is_written_by_the_exact_scale(tmp_path: Path) -> None:
    state = DriverState(RunFolder(tmp_path), 60.0, lambda reason, progress: None)
    state.write({scale.key: reason for scale, reason in zip(ALIKE, (PILOT_FAILED, PILOT_RUNNING), strict=True)}, {})
    held = json.loads((tmp_path / "driver.json").read_text())["held"]
    assert held == {"ratio=1.00011": PILOT_FAILED, "ratio=1.00012": PILOT_RUNNING}


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
