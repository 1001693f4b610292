"""MLflow: one experiment a sweep, a parent run, and one child run a trial."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.io import set_aside
from hptransfer.core.records import DIVERGED, FAILED, POINT, Outcome, Trial, short
from hptransfer.core.redaction import HIDDEN, redacted, whole
from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers import TRACKERS, CurvePoints, SweepResults, Tracker, TrackerConfig
from hptransfer.trackers._views import TAG, TRIALS, link, trials_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
# Without it the page opens on traces of language-model calls, of which there are none.
KIND = {"mlflow.experimentKind": "custom_model_development"}
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# MLflow would try a request seven times over minutes, and one that makes a run is not safe to repeat blindly. Here a
# request is made once, and what failed is taken up again after a look at what is there.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 15,
    "MLFLOW_DISABLE_TELEMETRY": True,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,
}
TAG_CHARS = 500


@TRACKERS.register("mlflow")
@dataclass(kw_only=True)
class MlflowConfig(TrackerConfig):
    name: str = "mlflow"
    uri: str = ""
    """Tracking server or database; empty: mlflow.db in the run's folder. A password in it is not stored."""

    def note(self) -> str | None:
        if redacted(self.uri) == self.uri or whole(redacted(self.uri), os.environ, URI_VARIABLE) == self.uri:
            return None
        return (
            f"the password in tracker.uri is stored nowhere; `verify` and the like take it from {URI_VARIABLE}, "
            "set to all of the URI"
        )

    def open(self, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> Tracker | None:
        uri = whole(self.uri, os.environ, URI_VARIABLE)
        if f":{HIDDEN}@" in uri:
            raise ConfigError(f"tracker.uri {uri} is without its password; set {URI_VARIABLE} to all of it")
        return MlflowTracker(uri or embedded_store(folder), folder, name, settings)


def client(uri: str) -> MlflowClient:
    """A client that sends no telemetry, gives up soon, and keeps MLflow's own messages off the terminal.

    The process's environment stays as it was, as users' scripts may train with MLflow themselves; what the user
    has set there counts.
    """
    with _variable("MLFLOW_DISABLE_TELEMETRY", "true"):  # read once, at the import
        from mlflow import MlflowClient, environment_variables
    for name, value in DEFAULTS.items():
        getattr(environment_variables, name).default = value
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def embedded_store(folder: RunFolder) -> str:
    """The run's own database, created whole or not at all.

    MLflow creates its tables one by one; killed in between, it never opens that file again. So they
    are created under another name. A store that is damaged, or came here in a copy of another run's
    folder and still points at that one's artifacts, is set aside: it is a view, and is made again.
    """
    path = folder.mlflow.resolve()
    uri = f"sqlite:///{path}"
    if path.exists() and not _is_ours(path, _artifacts(folder)):
        set_aside(path)
    if path.exists():
        return uri
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch()  # SQLite's own mode would leave a group without writing
    client(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    unfinished.replace(path)
    return uri


def _artifacts(folder: RunFolder) -> str:
    return (folder.path / "mlflow-artifacts").resolve().as_uri()


def _is_ours(path: Path, artifacts: str) -> bool:
    """Looks without MLflow, which would keep the file open. A store that is locked just now is taken to be ours."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            whole_file = database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            found = {location for (location,) in database.execute("SELECT artifact_location FROM experiments")}
    except sqlite3.DatabaseError as error:
        return "locked" in str(error)
    ours = {location for location in found if location.endswith("/mlflow-artifacts")}
    return whole_file and ours <= {artifacts}


@dataclass
class TrackedRun:
    """A trial's run in the store.

    Attributes:
        points: of its curve that are written, by step and time; None if an earlier driver wrote them.
        new: its settings may not be written yet.
    """

    run_id: str
    status: str
    points: set[tuple[int, int]] | None = None
    new: bool = False


class MlflowTracker(Tracker):
    """Only the driver opens the store, so no two processes ever create its tables at once."""

    def __init__(self, uri: str, folder: RunFolder, name: str, settings: Mapping[str, Any]) -> None:
        self._client = client(uri)
        self._name, self._settings = name, {key: str(value) for key, value in settings.items()}
        artifacts = _artifacts(folder) if uri.startswith("sqlite:") else None
        self._experiment = self._find_experiment(str(folder.path.resolve()), artifacts)
        self._runs = self._existing()
        self._parent = self._open_parent()
        self._viewed = bool(self._runs)

    def _find_experiment(self, place: str, artifacts: str | None) -> str:
        """The experiment of this run's folder: others on the same server may have sweeps of the same name."""
        number, name = 1, self._name
        while (found := self._client.get_experiment_by_name(name)) is not None:
            if found.lifecycle_stage == "active" and found.tags.get("folder") == place:
                return str(found.experiment_id)
            number += 1
            name = f"{self._name} ({number})"
        tags = {**KIND, "folder": place, "sweep": self._name}
        return str(self._client.create_experiment(name, artifacts, tags=tags))

    def _existing(self) -> dict[str, TrackedRun]:
        """Runs by the trial that they show. Of two for one trial, as after a lost answer, one goes."""
        runs: dict[str, TrackedRun] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                trial = run.data.tags.get("trial")
                shown = TrackedRun(run.info.run_id, run.info.status)
                if trial in runs:
                    spare = runs[trial] if shown.status == "FINISHED" else shown
                    self._client.delete_run(spare.run_id)
                    if spare is shown:
                        continue
                if trial is not None:
                    runs[trial] = shown
            token = page.token
            if not token:
                return runs

    def _open_parent(self) -> str:
        parent = self._runs.pop("sweep", None)
        if parent is None:
            tags = {"trial": "sweep", "sweep": self._name, "state": "running"}
            run = self._client.create_run(self._experiment, run_name=self._name, tags=tags)
            parent = TrackedRun(run.info.run_id, run.info.status)
            self._describe(f"sweep {self._name}, nothing is predicted yet")
        elif parent.status != "RUNNING":
            self._client.update_run(parent.run_id, status="RUNNING")
        self._write(parent.run_id, params=self._missing(parent.run_id, self._settings))
        return parent.run_id

    def _describe(self, text: str) -> None:
        """What stands at the head of the experiment's page: the answer in one line, ways on, then all the rest."""
        first, _, rest = text.partition("\n")
        table, charts = (link(self._experiment, charts=value) for value in (False, True))
        note = f"[trials]({table}) · [curves]({charts}) · {first}"
        self._client.set_experiment_tag(self._experiment, NOTE, f"{note}\n\n```\n{rest}\n```" if rest else note)

    def _write(
        self,
        run_id: str,
        *,
        metrics: list[Metric] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=metrics or [],
            params=[Param(key, value) for key, value in (params or {}).items()],
            tags=[RunTag(key, redacted(value)[:TAG_CHARS]) for key, value in (tags or {}).items()],
        )

    def _missing(self, run_id: str, params: Mapping[str, str]) -> dict[str, str]:
        """Those that a run does not have: MLflow refuses to change one."""
        have = self._client.get_run(run_id).data.params
        return {key: value for key, value in params.items() if key not in have}

    def _write_trial(
        self, shown: TrackedRun, trial: Trial, curve: CurvePoints, metrics: list[Metric], tags: Mapping[str, str]
    ) -> None:
        """Writes what a trial's run does not have yet, in one call."""
        start = _time_ms(curve[0]) if curve else 0
        params: dict[str, str] = {}
        if shown.new:
            values = {**trial.scale.axes, **trial.tuned, "seed": trial.seed}
            params = {key: str(value) for key, value in values.items()}
            metrics = [*_settings(trial, start), *metrics]
        self._write(shown.run_id, metrics=[*_points(curve, shown.points), *metrics], params=params, tags=tags)
        shown.new = False

    def follow(self, trial: Trial, curve: CurvePoints) -> None:
        if curve:
            shown = self._fitting(trial, curve) or self._create(trial, curve)
            self._write_trial(shown, trial, curve, [], {})
            shown.points = {_key(row) for row in curve}

    def log(self, trial: Trial, outcome: Outcome, curve: CurvePoints) -> None:
        ended = "FAILED" if outcome.state == FAILED else "FINISHED"
        shown = self._runs.get(trial.id)
        if shown is not None and shown.status == ended:
            return
        shown = self._fitting(trial, curve) or self._create(trial, curve)
        end = _time_ms(curve[-1]) if curve else 0
        self._write_trial(shown, trial, curve, _results(outcome, end), _ending(outcome))
        self._client.set_terminated(shown.run_id, ended, end_time=end or None)
        shown.status, shown.points = ended, None

    def _fitting(self, trial: Trial, curve: CurvePoints) -> TrackedRun | None:
        """The trial's run, if all that it shows is of this curve; one of an attempt that was taken back goes.

        The curve's own times make a point that is written twice the same point to MLflow, and tell
        a point of an earlier attempt from that of a later one.
        """
        shown = self._runs.get(trial.id)
        if shown is None:
            return None
        if shown.status == "RUNNING":
            if shown.points is None:
                history = self._client.get_metric_history(shown.run_id, "train_loss")
                shown.points = {(point.step, point.timestamp) for point in history}
                shown.new = not history  # what was cut off there is written whole
            if _agree(shown.points, {_key(row) for row in curve if row["loss"] is not None}):
                return shown
        self._client.delete_run(self._runs.pop(trial.id).run_id)
        return None

    def _create(self, trial: Trial, curve: CurvePoints) -> TrackedRun:
        tags = {"trial": trial.id, PARENT: self._parent, **_tags(trial), "sweep": self._name, "state": "running"}
        tags |= {key: value for key, value in self._settings.items() if key == "parameterization"}
        start = round(curve[0]["time"] * 1000) if curve else None
        run = self._client.create_run(self._experiment, start, tags=tags, run_name=_run_name(trial))
        shown = self._runs[trial.id] = TrackedRun(run.info.run_id, run.info.status, points=set(), new=True)
        if not self._viewed:
            view = trials_view(list(trial.scale.axes), list(trial.tuned))
            self._client.set_experiment_tag(self._experiment, f"{TAG}{TRIALS}", view)
            self._viewed = True
        return shown

    def summarize(self, summary: SweepResults) -> None:
        from mlflow.entities import Metric

        have = self._client.get_run(self._parent).data.metrics
        now = round(max((file.stat().st_mtime for file in summary.files), default=0.0) * 1000)
        new = {key: value for key, value in summary.metrics.items() if have.get(key) != value}
        self._write(self._parent, metrics=[Metric(key, value, now, 0) for key, value in new.items()])
        if summary.text:
            self._client.set_tag(self._parent, NOTE, f"```\n{redacted(summary.text)}\n```")
            self._describe(redacted(summary.text))
        for file in summary.files:
            self._client.log_artifact(self._parent, str(file))

    def close(self) -> None:
        self._write(self._parent, tags={"state": "ended"})
        self._client.set_terminated(self._parent, "FINISHED")


def _run_name(trial: Trial) -> str:
    return trial.name if trial.purpose == "sweep" else f"{trial.purpose} {trial.name}"


def _tags(trial: Trial) -> dict[str, str]:
    """What runs can be filtered by: tags.width = '64'."""
    axes = {key: short(value) for key, value in trial.scale.axes.items()}
    parts = {key: part["name"] for key, part in trial.run.items() if isinstance(part, Mapping) and "name" in part}
    return {**axes, **parts, "scale": trial.scale.name, "purpose": trial.purpose}


def _ending(outcome: Outcome) -> dict[str, str]:
    found = {"state": outcome.state, "cause": outcome.cause, "error": outcome.error, NOTE: outcome.error}
    return {key: value for key, value in found.items() if value}


def _settings(trial: Trial, time_ms: int) -> list[Metric]:
    """The numbers among a trial's settings: MLflow's parameters are text, which it cannot compare or draw."""
    from mlflow.entities import Metric

    values: dict[str, float] = {**trial.scale.axes, **trial.tuned}
    values |= {f"log2_{key}": math.log2(value) for key, value in trial.tuned.items() if value > 0}
    values |= {"parameters": trial.params, "flops": trial.flops}
    return [Metric(f"settings/{key}", float(value), time_ms, 0) for key, value in values.items()]


def _points(curve: CurvePoints, written: Collection[tuple[int, int]] | None = None) -> list[Metric]:
    """A curve's points as MLflow takes them, but for those that are written."""
    from mlflow.entities import Metric

    found = []
    for row in curve:
        values = {"train_loss": row["loss"], **{key: value for key, value in row.items() if key not in POINT}}
        for key, value in values.items():
            # MLflow would keep infinity as a number.
            if _key(row) not in (written or ()) and value is not None and math.isfinite(value):
                found.append(Metric(key, float(value), _time_ms(row), row["step"]))
    return found


def _time_ms(row: Mapping[str, Any]) -> int:
    return round(float(row["time"]) * 1000)


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return int(row["step"]), _time_ms(row)


def _agree(written: set[tuple[int, int]], curve: set[tuple[int, int]]) -> bool:
    """Whether a curve has every point that is written, or was thinned since: has only such, as far as they go."""
    last = max((step for step, _ in written), default=-1)
    so_far = {point for point in curve if point[0] <= last}
    return written <= curve or (bool(so_far) and so_far <= written)


def _results(outcome: Outcome, time_ms: int) -> list[Metric]:
    from mlflow.entities import Metric

    values = {"diverged": float(outcome.state == DIVERGED), "seconds": outcome.seconds}
    if outcome.loss is not None:
        values["loss"] = outcome.loss
    if outcome.loss_se is not None:
        values["loss_se"] = outcome.loss_se
    return [Metric(key, float(value), time_ms, outcome.steps) for key, value in values.items()]
