"""MLflow shows what the trial folders hold, once, however often it is written."""

from pathlib import Path

import pytest
from rich.console import Console

from hptransfer.core.files import RunFolder, read_jsonl
from hptransfer.core.records import DIVERGED, Trial
from hptransfer.sweep.config import SweepConfig
from hptransfer.sweep.driver import Campaign
from hptransfer.sweep.plan import make_plan
from hptransfer.sweep.session import session
from tests.helpers import ONE_SCALE, tiny

# MLflow's own libraries warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


def run(config: SweepConfig) -> str:
    plan = make_plan(config)
    console = Console(record=True, quiet=False, file=(config.folder.path.parent / "out").open("w"))
    with session(plan, console) as open_session:
        open_session.train(Campaign.sweep(plan))
    text = console.export_text()
    console.file.close()
    return text


def shown(folder: RunFolder) -> tuple[object, list[object]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.mlflow}")
    experiment = client.get_experiment_by_name(folder.path.name)
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id], max_results=1000))


def assert_mlflow_agrees(folder: RunFolder) -> None:
    client, runs = shown(folder)
    by_trial = {run.data.tags["trial"]: run for run in runs}
    trials = {trial.id: trial for trial in folder.read_trials()}
    assert len(runs) == len(by_trial)
    assert set(by_trial) == {"sweep", *trials}
    parent = by_trial["sweep"].info.run_id
    for trial_id, trial in trials.items():
        assert_run_shows(client, by_trial[trial_id], trial, folder, parent)


def assert_run_shows(client: object, run: object, trial: Trial, folder: RunFolder, parent: str) -> None:
    outcome = folder.read_outcome(trial.id)
    assert outcome is not None
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["state"] == outcome.state
    assert run.info.status == "FINISHED"
    assert run.data.params == {k: str(v) for k, v in {**trial.scale.axes, **trial.tuned, "seed": trial.seed}.items()}
    assert run.data.metrics["diverged"] == (outcome.state == DIVERGED)
    assert run.data.metrics.get("loss") == outcome.loss
    curve = [(p["step"], p["loss"]) for p in read_jsonl(folder.curve_path(trial.id)) if p["loss"] is not None]
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted((m.step, m.value) for m in history) == curve


def test_mlflow_shows_every_trial_once_and_again_changes_nothing(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", "space.lr.values=[0.004,0.015,1e5]")
    run(config)
    assert_mlflow_agrees(config.folder)
    run(config)
    assert_mlflow_agrees(config.folder)


def test_a_write_that_was_cut_off_is_completed_without_doubled_points(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    run(config)
    client, runs = shown(config.folder)
    for one in runs:
        if one.data.tags["trial"] != "sweep":
            client.update_run(one.info.run_id, status="RUNNING")  # as if killed before the last call
    run(config)
    assert_mlflow_agrees(config.folder)


def test_a_lost_store_is_made_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    run(config)
    config.folder.mlflow.rename(tmp_path / "lost.db")
    run(tiny(tmp_path, "tracker=mlflow", *ONE_SCALE))
    assert_mlflow_agrees(config.folder)


def test_a_store_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "tracker=mlflow", *ONE_SCALE)
    config.folder.create()
    config.folder.sweep.touch()
    config.folder.mlflow.with_name("mlflow.db.unfinished").write_bytes(b"half a data base")
    run(config)
    assert_mlflow_agrees(config.folder)


def test_a_store_that_cannot_be_reached_does_not_stop_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = tiny(tmp_path, "tracker=mlflow", f"tracker.uri=sqlite:///{tmp_path}/file/no.db", *ONE_SCALE)
    text = run(config)
    assert "note: the tracker failed" in text
    assert len(list(config.folder.path.glob("trials/*/outcome.json"))) == 3
