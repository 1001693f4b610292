"""A sweep of two hyperparameters from its file to its verification, and the runs that are worth most next."""

from pathlib import Path

import pandas as pd
import pytest

from hptransfer.config.compose import compose
from hptransfer.core.io import read_json
from hptransfer.planning.plan import make_plan
from tests.support.helpers import command

SWEEP = """
defaults: [sweep, run: builtin, run/model: mlp, run/optimizer: sgd, run/data: teacher, sampler: grid, launcher: inline,
           tracker: none, _self_]
name: two
run: {base: {width: 8}, batch: 16, sequence: 1, tokens: 1600, validation_windows: 256}
grid:
  width: {path: run.model.width, values: [8, 16]}
  tokens: {path: run.tokens, values: [800, 1600]}
space:
  lr: {path: run.optimizer.lr, low: 0.03125, high: 0.5, count: 3, extend: 1}
  lack: {path: run.optimizer.momentum, transform: one_minus, values: [0.1, 0.3, 0.9], extend: 0}
design: DESIGN
target: {width: 32, tokens: 1600}
"""


def written(folder: Path, design: str = "product") -> Path:
    path = folder / "two.yaml"
    path.write_text(SWEEP.replace("DESIGN", design))
    return path


@pytest.mark.parametrize(("design", "settings"), [("product", 9), ("one_at_a_time", 5)])
def test_a_plan_counts_the_settings_of_its_design(tmp_path: Path, design: str, settings: int) -> None:
    plan = make_plan(compose(str(written(tmp_path, design))))
    assert plan.tuned == ("lr", "lack")
    assert plan.num_trials(plan.scales[0]) == settings


@pytest.mark.slow
def test_two_hyperparameters_are_swept_predicted_verified_and_swept_further(tmp_path: Path) -> None:
    arguments = (str(written(tmp_path)), f"runs={tmp_path}", "seeds=2")
    swept = command("sweep", *arguments)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    run = tmp_path / "two"
    prediction = read_json(run / "prediction.json")["hyperparameters"]
    assert set(prediction) == {"lr", "lack"}
    assert all(found["low"] <= found["value"] <= found["high"] for found in prediction.values())
    assert set(read_json(run / "fit.json")["hyperparameters"]["lack"]["exponents"]) == {"width", "tokens"}
    ends = ("", "_center", "_low", "_high", "_stable_below", "_outside_tried", "_widened_by")
    assert list(pd.read_csv(run / "predictions.csv").columns)[2:16] == [
        f"{name}{end}" for name in ("lr", "lack") for end in ends
    ]

    verified = command("verify", str(run))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    verification = read_json(run / "verification.json")
    assert set(verification["error_octaves"]) == {"lr", "lack"}
    assert verification["regret_percent"] >= 0

    before = len(list((run / "trials").iterdir()))
    further = command("sweep", *arguments, "--next", "3")
    assert further.returncode == 0, further.stdout + further.stderr
    made = len(list((run / "trials").iterdir())) - before
    assert made in (2, 4, 6, 8, 10, 12)  # two seeds each
    records = pd.read_csv(run / "records.csv")
    assert set(records["state"]) <= {"done", "diverged"}
    exported = command("export", str(run))
    assert '"momentum"' in exported.stdout


def test_next_of_nothing_is_refused(tmp_path: Path) -> None:
    refused = command("sweep", str(written(tmp_path)), f"runs={tmp_path}", "--next", "0")
    assert refused.returncode == 2
    assert "--next must be at least 1, got 0" in refused.stderr
