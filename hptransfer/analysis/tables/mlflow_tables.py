"""Runs of an MLflow experiment as a table."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from hptransfer.core.errors import ConfigError, unknown

# By default MLflow sends telemetry and retries seven times, for minutes.
MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
# Letters of an MLflow error that are shown.
LONGEST_REASON = 120


def read_experiment(uri: str, name: str) -> pd.DataFrame:
    """Return the runs of an MLflow experiment as a table.

    Columns: tags, parameters, last metrics and the state.

    Raises:
        ConfigError: the server does not answer, or the experiment is unknown or has no runs.
    """
    store = uri.removeprefix("sqlite:///")
    if store != uri and not Path(store).is_file():  # MLflow would create an empty one
        raise ConfigError(f"--mlflow: no store {store!r}")
    with _variables(MLFLOW):
        rows = _runs(uri, name)
    if not rows:
        raise ConfigError(f"--mlflow: experiment {name!r} has no runs")
    frame = pd.DataFrame(rows)
    return frame.drop(columns=[column for column in frame if str(column).startswith("mlflow.")])


def _runs(uri: str, name: str) -> list[dict[str, object]]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            names = [stored.name for stored in client.search_experiments()]
            raise ConfigError(f"--mlflow: {unknown('experiment', name, names)}")
        rows: list[dict[str, object]] = []
        token: str | None = None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
            rows += [{**run.data.tags, **run.data.params, **run.data.metrics, "state": run.info.status} for run in page]
            token = page.token
            if not token:
                break
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        if "failed with exception" in reason:  # a connection error with all its details
            cause = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(timed out)", reason)
            answer = f" ({cause.group(0)})" if cause else ""
            message = f"--mlflow: no server answers at {uri}{answer}; start it, or give another URI"
            raise ConfigError(message) from None
        shown = textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...")
        raise ConfigError(f"--mlflow: experiment {name!r} cannot be read ({shown})") from None
    return rows


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables temporarily, except those that are already set."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
