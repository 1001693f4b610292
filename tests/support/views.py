"""Views of a run in Optuna and MLflow, compared with its trial folders."""

from __future__ import annotations

from typing import Any

import optuna
from rich.console import Console

from hptransfer.config.sweep import SweepConfig
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import DIVERGED, DONE, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from hptransfer.planning.trial_set import TrialSet
from hptransfer.session.session import session


def sweep(config: SweepConfig) -> str:
    """Runs a sweep in this process; returns what it printed."""
    plan = make_plan(config)
    with (config.folder.path.parent / "out").open("w") as file:
        console = Console(record=True, quiet=False, file=file)
        with session(plan, console) as open_session:
            open_session.train(TrialSet.sweep(plan))
        return console.export_text()


def studies(folder: RunFolder) -> dict[str, optuna.Study]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.journal)))
    return {
        summary.study_name: optuna.load_study(study_name=summary.study_name, storage=storage)
        for summary in optuna.get_all_study_summaries(storage)
    }


def assert_optuna_agrees(folder: RunFolder) -> None:
    shown = {t.user_attrs["trial"]: t for study in studies(folder).values() for t in study.trials}
    trials = folder.read_trials()
    assert set(shown) == {trial.id for trial in trials}
    assert len(shown) == sum(len(study.trials) for study in studies(folder).values())
    for trial in trials:
        outcome = folder.read_outcome(trial.id)
        assert outcome is not None
        assert shown[trial.id].params == dict(trial.tuned)
        if outcome.state == DONE:
            assert shown[trial.id].value == outcome.loss


def mlflow_runs(folder: RunFolder) -> tuple[Any, list[Any]]:
    """A client of a run's MLflow store, and all runs there."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.mlflow}")
    experiment = client.get_experiment_by_name(folder.path.name)
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id], max_results=1000))


def assert_mlflow_agrees(folder: RunFolder) -> None:
    client, runs = mlflow_runs(folder)
    by_trial = {run.data.tags["trial"]: run for run in runs}
    trials = {trial.id: trial for trial in folder.read_trials()}
    assert len(runs) == len(by_trial)
    assert set(by_trial) == {"sweep", *trials}
    parent = by_trial["sweep"].info.run_id
    for trial_id, trial in trials.items():
        assert_run_shows(client, by_trial[trial_id], trial, folder, parent)


def assert_run_shows(client: Any, run: Any, trial: Trial, folder: RunFolder, parent: str) -> None:
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
