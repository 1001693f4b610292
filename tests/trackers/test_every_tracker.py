"""The kit that every tracker with a store passes: MLflow in a file. MLflow's server is in test_mlflow_server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hptransfer.testing import trackers
from hptransfer.trackers import TRACKERS, TrackedSweep
from tests.support.views import mlflow_runs

# MLflow's own libraries warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("check", trackers.CHECKS)
def test_mlflow_keeps_the_contract(check: Any, tmp_path: Path) -> None:
    folder = trackers.prepared_folder(tmp_path / "kit")
    config = TRACKERS.get("mlflow")()

    def read() -> Mapping[str, Any]:
        client, runs = mlflow_runs(folder)
        shown = {}
        for run in runs:
            if (name := run.data.tags["trial"]) != "sweep":
                assert name not in shown
                curve = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train_loss")]
                shown[name] = (run.info.status, run.data.tags["state"], dict(run.data.metrics), curve)
        return shown

    check(folder, lambda: config.open(folder, TrackedSweep(name="kit")), read)


def test_no_tracker_opens_nothing(tmp_path: Path) -> None:
    folder = trackers.prepared_folder(tmp_path / "kit")
    assert TRACKERS.get("none")().open(folder, TrackedSweep(name="kit")) is None
