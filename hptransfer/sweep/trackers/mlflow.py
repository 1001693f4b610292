"""MLflow: one experiment a sweep, a parent run, and one child run a trial."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.core.files import RunFolder, set_aside
from hptransfer.core.records import DIVERGED, FAILED, POINT, Outcome, Trial, short
from hptransfer.sweep.trackers._base import TRACKERS, Tracker, TrackerConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"
# Without it the page opens on traces of language-model calls, of which there are none.
KIND = {"mlflow.experimentKind": "custom_model_development"}


@TRACKERS.register("mlflow")
@dataclass(kw_only=True)
class MlflowConfig(TrackerConfig):
    name: str = "mlflow"
    uri: str = ""
    """Tracking server or database; empty: mlflow.db in the run's folder."""

    def open(self, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> Tracker | None:
        return Mlflow(self.uri or embedded_store(folder, name), folder, name, settings)


def client(uri: str) -> MlflowClient:
    """A client that sends no telemetry and keeps MLflow's own messages off the terminal."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def embedded_store(folder: RunFolder, name: str) -> str:
    """The run's own database, created whole or not at all.

    MLflow creates its tables one by one; killed in between, it never opens that file again. So they
    are created under another name. A store that is damaged, or came here in a copy of another run's
    folder and still points at that one's artifacts, is set aside: it is a view, and is made again.
    """
    path = folder.mlflow.resolve()
    uri = f"sqlite:///{path}"
    if path.exists() and not _is_ours(path, name, _artifacts(folder)):
        set_aside(path)
    if path.exists():
        return uri
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    client(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    unfinished.replace(path)
    return uri


def _artifacts(folder: RunFolder) -> str:
    return (folder.path / "mlflow-artifacts").resolve().as_uri()


def _is_ours(path: Path, name: str, artifacts: str) -> bool:
    """Looks without MLflow, which would keep the file open. A store that is locked just now is taken to be ours."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            whole = database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            found = database.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.DatabaseError as error:
        return "locked" in str(error)
    return whole and (name, artifacts) in found


class Mlflow(Tracker):
    """Only the driver opens the store, so no two processes ever create its tables at once."""

    def __init__(self, uri: str, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> None:
        self._client = client(uri)
        found = self._client.get_experiment_by_name(name)
        artifacts = _artifacts(folder) if uri.startswith("sqlite:") else None
        self._experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts, tags=KIND)
        self._runs = self._existing()
        self._parent = self._runs.get("sweep") or self._create("sweep", name, {})
        self._set_params(self._parent, settings)

    def _existing(self) -> dict[str, str]:
        """Run ids by the trial they show."""
        runs: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                if "trial" in run.data.tags:
                    runs[run.data.tags["trial"]] = run.info.run_id
            token = page.token
            if not token:
                return runs

    def _create(self, trial: str, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, run_name=name, tags={"trial": trial, **tags})
        return str(run.info.run_id)

    def _set_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Writes parameters that the run does not have yet; MLflow refuses to change one."""
        from mlflow.entities import Param

        have = self._client.get_run(run_id).data.params
        params = [Param(key, str(value)) for key, value in values.items() if key not in have]
        self._client.log_batch(run_id, params=params)

    def log(self, trial: Trial, outcome: Outcome, curve: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        if trial.id in self._runs and outcome.state != FAILED and self._status(trial.id) == "FAILED":
            self._client.delete_run(self._runs.pop(trial.id))  # of an attempt that was taken back
        if trial.id not in self._runs:
            tags = {PARENT: self._parent, "purpose": trial.purpose, "scale": trial.scale.name, "state": outcome.state}
            self._runs[trial.id] = self._create(trial.id, _run_name(trial), tags)
        run_id = self._runs[trial.id]
        if self._status(trial.id) in ("FINISHED", "FAILED"):
            return
        self._set_params(run_id, {**trial.scale.axes, **trial.tuned, "seed": trial.seed})
        # The curve's own times make a point that is written twice the same point to MLflow.
        points = [
            Metric("train_loss", row["loss"], round(row["time"] * 1000), row["step"])
            for row in curve
            if row["loss"] is not None
        ]
        points += [
            Metric(key, value, round(row["time"] * 1000), row["step"])
            for row in curve
            for key, value in row.items()
            if key not in POINT
        ]
        end = round(curve[-1]["time"] * 1000) if curve else 0
        final = {"diverged": float(outcome.state == DIVERGED), "seconds": outcome.seconds, "flops": trial.flops}
        judged = {"loss": outcome.loss, "loss_se": outcome.loss_se}
        final |= {key: value for key, value in judged.items() if value is not None}
        metrics = points + [Metric(key, value, end, outcome.steps) for key, value in final.items()]
        self._client.log_batch(run_id, metrics=metrics)
        self._client.set_terminated(run_id, "FAILED" if outcome.state == FAILED else "FINISHED")

    def _status(self, trial_id: str) -> str:
        return str(self._client.get_run(self._runs[trial_id]).info.status)

    def summarize(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        for key, value in metrics.items():
            self._client.log_metric(self._parent, key, value)
        for file in files:
            self._client.log_artifact(self._parent, str(file))
        self._client.set_terminated(self._parent, "FINISHED")


def _run_name(trial: Trial) -> str:
    tuned = " ".join(f"{key}={short(value)}" for key, value in trial.tuned.items())
    return f"{trial.scale.name} {tuned}"
