"""MLflow: an experiment per sweep, with one child run per trial."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import posixpath
import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.io import set_aside
from hptransfer.core.records import CANCELLED, CURVE_KEYS, DIVERGED, FAILED, SWEEP, Outcome, Trial, exact, short
from hptransfer.core.redaction import HIDDEN, redacted, with_password
from hptransfer.core.run_folder import RunFolder
from hptransfer.trackers import (
    TRACKERS,
    CurvePoints,
    RefusedError,
    SweepResults,
    TrackedSweep,
    Tracker,
    TrackerConfig,
)
from hptransfer.trackers._views import (
    COLOR_TAG,
    SETTINGS,
    TRIALS_VIEW,
    VIEW_TAG,
    log2_setting,
    scale_colors,
    trials_view,
    view_link,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
# Without this tag the page opens on the (empty) traces of language-model calls.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# MLflow would try a request seven times over minutes, and repeating one that creates a run is not safe. Here a request
# is sent once, and after a failure the store is read before anything is written again.
CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 15,
    "MLFLOW_DISABLE_TELEMETRY": True,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,
}
MAX_TAG_CHARS = 500
OWN_METRICS = frozenset({"train_loss", "loss", "loss_se", "seconds", "diverged"})
# MLflow's rule for names, which are paths as well.
METRIC_NAME = re.compile(r"[/\w.\- :]{1,250}")
MAX_READABLE_CHARS = 200
SCHEMA_VERSIONS = re.compile(r"found version \w+, but expected \w+")


@TRACKERS.register("mlflow")
@dataclass(kw_only=True)
class MlflowConfig(TrackerConfig):
    """Settings of tracker=mlflow."""

    name: str = "mlflow"
    uri: str = ""
    """Tracking server or database; empty for mlflow.db in the run's folder. A password in it is not stored."""

    def note(self) -> str | None:
        if redacted(self.uri) == self.uri or with_password(redacted(self.uri), os.environ, URI_VARIABLE) == self.uri:
            return None
        return (
            f"the password in tracker.uri is stored nowhere; `verify` and other commands read it from {URI_VARIABLE}, "
            "set to all of the URI"
        )

    def open(self, folder: RunFolder, sweep: TrackedSweep) -> Tracker | None:
        uri = with_password(self.uri, os.environ, URI_VARIABLE)
        if f":{HIDDEN}@" in uri:
            raise ConfigError(f"tracker.uri {uri} is without its password; set {URI_VARIABLE} to all of it")
        return MlflowTracker(uri or embedded_store(folder), folder, sweep)


def client(uri: str) -> MlflowClient:
    """Return a client without telemetry, retries and messages on the terminal.

    The environment of the process is restored, because users' scripts may use MLflow themselves. Variables that the
    user has set are respected.

    Raises:
        ConfigError: another version of MLflow made the store.
    """
    with _default_variable("MLFLOW_DISABLE_TELEMETRY", "true"):  # read once, at the import
        from mlflow import MlflowClient, environment_variables
        from mlflow.exceptions import MlflowException
    for name, value in CLIENT_DEFAULTS.items():
        getattr(environment_variables, name).default = value
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        versions = SCHEMA_VERSIONS.search(str(error))
        if versions is None:
            raise
    raise ConfigError(
        f"the store {uri} was made by another version of MLflow ({versions[0]}): an older one is brought up to date by "
        f"`mlflow db upgrade {uri}`, a newer one needs a newer MLflow (pip install --upgrade mlflow); a run's own "
        "mlflow.db may also be moved away, and is then made again from the trial folders"
    )


@contextlib.contextmanager
def _default_variable(name: str, value: str) -> Iterator[None]:
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def embedded_store(folder: RunFolder) -> str:
    """Return the URI of the run's own database, created atomically.

    MLflow creates its tables one by one; if it is killed in between, it can never open that file again. They are
    therefore created under another name. A damaged store is set aside and created again from the trial folders. The
    same holds for a store in a copied run folder, whose artifacts are still those of the original.
    """
    path = folder.mlflow.resolve()
    uri = f"sqlite:///{path}"
    if path.exists() and not _belongs_to_run(path, _artifacts(folder)):
        set_aside(path)
    if path.exists():
        return uri
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch()  # the file mode of SQLite would not let a group write
    client(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    unfinished.replace(path)
    return uri


def _artifacts(folder: RunFolder) -> str:
    return (folder.path / "mlflow-artifacts").resolve().as_uri()


def _belongs_to_run(path: Path, artifacts: str) -> bool:
    """Test if a store is intact and refers to the run's artifacts.

    It is read without MLflow, which would keep the file open. A locked store is assumed to be the run's.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            intact = database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            locations = {location for (location,) in database.execute("SELECT artifact_location FROM experiments")}
    except sqlite3.DatabaseError as error:
        return "locked" in str(error)
    local = {location for location in locations if location.endswith("/mlflow-artifacts")}
    return intact and local <= {artifacts}


@dataclass
class TrackedRun:
    """Run of one trial in the store.

    Attributes:
        start_ms: start of the run in the store, which cannot be changed.
        points: written points of the curve, by step and time; None if an earlier driver wrote them.
        new: true if the settings may not be written yet.
    """

    run_id: str
    status: str
    start_ms: int
    points: set[tuple[int, int]] | None = None
    new: bool = False


class MlflowTracker(Tracker):
    """Tracker of one sweep in an MLflow store.

    Only the driver opens the store, so two processes never create its tables at the same time.
    """

    def __init__(self, uri: str, folder: RunFolder, sweep: TrackedSweep) -> None:
        self._client = client(uri)
        self._sweep, self._name = sweep, sweep.name
        self._settings = {key: str(value) for key, value in sweep.settings.items()}
        self._colors = scale_colors(sweep.scales)
        artifacts = _artifacts(folder) if uri.startswith("sqlite:") else None
        self._experiment = self._find_experiment(str(folder.path.resolve()), artifacts)
        self._runs = self._load_runs()
        self._parent = self._open_parent()
        self._set_view()

    def _find_experiment(self, path: str, artifacts: str | None) -> str:
        """Return the experiment of this run's folder.

        Other sweeps on the same server may have the same name.
        """
        number, name = 1, self._name
        while (experiment := self._client.get_experiment_by_name(name)) is not None:
            if experiment.lifecycle_stage == "active" and experiment.tags.get("folder") == path:
                return str(experiment.experiment_id)
            number += 1
            name = f"{self._name} ({number})"
        tags = {**EXPERIMENT_KIND, "folder": path, "sweep": self._name}
        return str(self._client.create_experiment(name, artifacts, tags=tags))

    def _load_runs(self) -> dict[str, TrackedRun]:
        """Return the runs by trial.

        If a trial has two, as after a lost answer, one of them is deleted.
        """
        runs: dict[str, TrackedRun] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                trial = run.data.tags.get("trial")
                tracked = TrackedRun(run.info.run_id, run.info.status, run.info.start_time)
                self._recolor(run.info.run_id, run.data.tags)
                if trial in runs:
                    spare = runs[trial] if tracked.status == "FINISHED" else tracked
                    self._client.delete_run(spare.run_id)
                    if spare is tracked:
                        continue
                if trial is not None:
                    runs[trial] = tracked
            token = page.token
            if not token:
                return runs

    def _recolor(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Correct a run's colour after the sweep was given further scales."""
        color = self._colors.get(tags.get("scale", ""))
        if color is not None and tags.get(COLOR_TAG) != color:
            self._client.set_tag(run_id, COLOR_TAG, color)

    def _open_parent(self) -> str:
        parent = self._runs.pop("sweep", None)
        if parent is None:
            tags = {"trial": "sweep", "sweep": self._name, "state": "running"}
            run = self._client.create_run(self._experiment, run_name=self._name, tags=tags)
            parent = TrackedRun(run.info.run_id, run.info.status, run.info.start_time)
            self._describe(f"sweep {self._name}, nothing is predicted yet")
        elif parent.status != "RUNNING":
            self._client.update_run(parent.run_id, status="RUNNING")
        self._write(parent.run_id, params=self._unset_params(parent.run_id, self._settings))
        return parent.run_id

    def _set_view(self) -> None:
        """Set the view of the page, unless the experiment has it."""
        tag, view = f"{VIEW_TAG}{TRIALS_VIEW}", trials_view(self._sweep)
        if self._client.get_experiment(self._experiment).tags.get(tag) != view:
            self._client.set_experiment_tag(self._experiment, tag, view)

    def _describe(self, text: str) -> None:
        """Set the head of the experiment's page: links, the result, the details."""
        headline, _, details = text.partition("\n")
        table, charts = (view_link(self._experiment, charts=value) for value in (False, True))
        note = f"[trials]({table}) · [curves]({charts}) · {headline}"
        self._client.set_experiment_tag(
            self._experiment, NOTE_TAG, f"{note}\n\n```\n{details}\n```" if details else note
        )

    def _write(
        self,
        run_id: str,
        *,
        metrics: list[Metric] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(
                run_id,
                metrics=metrics or [],
                params=[Param(key, value) for key, value in (params or {}).items()],
                tags=[RunTag(key, redacted(value)[:MAX_TAG_CHARS]) for key, value in (tags or {}).items()],
            )
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise RefusedError(str(error)) from None
            raise

    def _unset_params(self, run_id: str, params: Mapping[str, str]) -> dict[str, str]:
        """Return the parameters that a run lacks; MLflow refuses to change one."""
        existing = self._client.get_run(run_id).data.params
        return {key: value for key, value in params.items() if key not in existing}

    def _write_trial(
        self, tracked: TrackedRun, trial: Trial, curve: CurvePoints, metrics: list[Metric], tags: Mapping[str, str]
    ) -> None:
        """Write the data that a trial's run lacks, in one call."""
        start = _time_ms(curve[0]) if curve else 0
        params: dict[str, str] = {}
        if tracked.new:
            values = {**trial.scale.axes, **trial.tuned, "seed": trial.seed}
            params = {key: str(value) for key, value in values.items()}
            metrics = [*_setting_metrics(trial, start), *metrics]
        self._write(
            tracked.run_id, metrics=[*_curve_metrics(curve, tracked.points), *metrics], params=params, tags=tags
        )
        tracked.new = False

    def follow(self, trial: Trial, curve: CurvePoints) -> None:
        if curve:
            tracked = self._matching_run(trial, curve) or self._create(trial, _time_ms(curve[0]))
            self._write_trial(tracked, trial, curve, [], {})
            tracked.points = {_point_key(row) for row in curve}

    def log(self, trial: Trial, outcome: Outcome, curve: CurvePoints) -> None:
        ended = _run_status(outcome)
        tracked = self._runs.get(trial.id)
        if tracked is not None and tracked.status == ended:
            return
        took = round(outcome.seconds * 1000)
        end = _time_ms(curve[-1]) if curve else round(time.time() * 1000)
        tracked = self._matching_run(trial, curve) or self._create(trial, end - took)
        self._write_trial(tracked, trial, curve, _outcome_metrics(outcome, end), _outcome_tags(outcome))
        # The trial's time, of which its points may show a part: a script starts before its first one.
        self._client.set_terminated(tracked.run_id, ended, end_time=tracked.start_ms + took)
        tracked.status, tracked.points = ended, None

    def _matching_run(self, trial: Trial, curve: CurvePoints) -> TrackedRun | None:
        """Return the trial's run if its points are those of this curve.

        A run of an attempt that was reset is deleted. Points carry the times of the curve. A point that is written
        twice is therefore one point to MLflow, and points of different attempts are distinct.
        """
        tracked = self._runs.get(trial.id)
        if tracked is None:
            return None
        if tracked.status == "RUNNING":
            if tracked.points is None:
                history = self._client.get_metric_history(tracked.run_id, "train_loss")
                tracked.points = {(point.step, point.timestamp) for point in history}
                tracked.new = not history  # nothing of it is written yet, or only a part
            if _is_same_curve(tracked.points, {_point_key(row) for row in curve if row["loss"] is not None}):
                return tracked
        self._client.delete_run(self._runs.pop(trial.id).run_id)
        return None

    def _create(self, trial: Trial, start_ms: int) -> TrackedRun:
        tags = {
            "trial": trial.id,
            PARENT_TAG: self._parent,
            **_trial_tags(trial),
            "sweep": self._name,
            "state": "running",
        }
        tags |= {key: value for key, value in self._settings.items() if key == "parameterization"}
        tags |= {COLOR_TAG: color} if (color := self._colors.get(trial.scale.key)) else {}
        name = _run_name(trial, self._sweep.varying)
        run = self._client.create_run(self._experiment, start_ms, tags=tags, run_name=name)
        tracked = TrackedRun(run.info.run_id, run.info.status, start_ms, points=set(), new=True)
        self._runs[trial.id] = tracked
        return tracked

    def summarize(self, summary: SweepResults) -> None:
        from mlflow.entities import Metric

        existing = self._client.get_run(self._parent).data.metrics
        now = round(max((file.stat().st_mtime for file in summary.files), default=0.0) * 1000)
        new = {key: value for key, value in summary.metrics.items() if existing.get(key) != value}
        self._write(self._parent, metrics=[Metric(key, value, now, 0) for key, value in new.items()])
        if summary.text:
            self._client.set_tag(self._parent, NOTE_TAG, f"```\n{redacted(summary.text)}\n```")
            self._describe(redacted(summary.text))
        for file in summary.files:
            self._client.log_artifact(self._parent, str(file))

    def close(self) -> None:
        self._write(self._parent, tags={"state": "ended"})
        self._client.set_terminated(self._parent, "FINISHED")


def _run_name(trial: Trial, varying: Collection[str]) -> str:
    """Return a run's name with the values that differ first.

    MLflow's table cuts names off.
    """
    axes = {key: f"{key}={exact(value)}" for key, value in trial.scale.axes.items()}
    parts = [*(text for key, text in axes.items() if key in varying)]
    parts += [*(f"{key}={short(value)}" for key, value in trial.tuned.items()), f"seed={trial.seed}"]
    parts += [*(text for key, text in axes.items() if key not in varying)]
    return " ".join(parts if trial.purpose == SWEEP else [trial.purpose, *parts])


def _run_status(outcome: Outcome) -> str:
    """Return MLflow's word for the end of a trial."""
    return {FAILED: "FAILED", CANCELLED: "KILLED"}.get(outcome.label, "FINISHED")


def _trial_tags(trial: Trial) -> dict[str, str]:
    """Return the tags by which runs can be filtered: tags.width = '64'."""
    axes = {key: exact(value) for key, value in trial.scale.axes.items()}
    parts = {key: part["name"] for key, part in trial.run.items() if isinstance(part, Mapping) and "name" in part}
    return {**axes, **parts, "scale": trial.scale.key, "purpose": trial.purpose}


def _outcome_tags(outcome: Outcome) -> dict[str, str]:
    tags = {"state": outcome.label, "cause": outcome.cause, "error": outcome.error, NOTE_TAG: outcome.error}
    return {key: value for key, value in tags.items() if value}


def _metric_name(name: str) -> str:
    """Return the name under which MLflow shows a reported number.

    A name that MLflow refuses gets other characters, and a hash that keeps it apart from similar ones.
    """
    if name in OWN_METRICS or name.startswith(SETTINGS):
        return f"reported_{name}"
    refused = name.startswith(("/", "..")) or name == "." or posixpath.normpath(name) != name
    if METRIC_NAME.fullmatch(name) and not refused:
        return name
    readable = re.sub(r"[^\w.\- ]", "_", name)[:MAX_READABLE_CHARS].lstrip(".")
    return f"{readable}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


def _setting_metrics(trial: Trial, time_ms: int) -> list[Metric]:
    """Return the numbers among a trial's settings as metrics.

    MLflow's parameters are text, which it cannot compare or plot.
    """
    from mlflow.entities import Metric

    values: dict[str, float] = {**trial.scale.axes, **trial.tuned}
    values |= {"parameters": trial.params, "flops": trial.flops}
    metrics = {f"{SETTINGS}{key}": float(value) for key, value in values.items()}
    metrics |= {log2_setting(key): math.log2(value) for key, value in trial.tuned.items() if value > 0}
    return [Metric(key, value, time_ms, 0) for key, value in metrics.items()]


def _curve_metrics(curve: CurvePoints, written: Collection[tuple[int, int]] | None = None) -> list[Metric]:
    """Return the unwritten points of a curve as metrics."""
    from mlflow.entities import Metric

    metrics = []
    for row in curve:
        reported = {_metric_name(key): value for key, value in row.items() if key not in CURVE_KEYS}
        values = {**reported, "train_loss": row["loss"]}
        for key, value in values.items():
            # MLflow would store infinity as a number.
            if _point_key(row) not in (written or ()) and value is not None and math.isfinite(value):
                metrics.append(Metric(key, float(value), _time_ms(row), row["step"]))
    return metrics


def _time_ms(row: Mapping[str, Any]) -> int:
    return round(float(row["time"]) * 1000)


def _point_key(row: Mapping[str, Any]) -> tuple[int, int]:
    return int(row["step"]), _time_ms(row)


def _is_same_curve(written: set[tuple[int, int]], curve: set[tuple[int, int]]) -> bool:
    """Test if the written points belong to a curve.

    The curve contains all of them. If it was thinned since, all of its points up to the last written step are written.
    """
    last = max((step for step, _ in written), default=-1)
    so_far = {point for point in curve if point[0] <= last}
    return written <= curve or (bool(so_far) and so_far <= written)


def _outcome_metrics(outcome: Outcome, time_ms: int) -> list[Metric]:
    from mlflow.entities import Metric

    values = {"diverged": float(outcome.state == DIVERGED), "seconds": outcome.seconds}
    if outcome.loss is not None:
        values["loss"] = outcome.loss
    if outcome.loss_se is not None:
        values["loss_se"] = outcome.loss_se
    return [Metric(key, float(value), time_ms, outcome.steps) for key, value in values.items()]
