"""A run can be anybody's script: what it is given, and what is taken of it."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.io import read_json, read_jsonl
from hptransfer.core.records import DONE
from hptransfer.core.reporting import RANK_VARIABLES, report
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import command, environment, outcomes
from tests.support.scripts import execute, plan_of, points, reports, write_sweep

# --- a whole sweep ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_of_a_script_finds_the_known_optimum_and_verifies_it(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    swept = command("sweep", "bowl.yaml", "launcher=local", "tracker=mlflow", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    folder = RunFolder(tmp_path / "runs" / "bowl")
    assert list(outcomes(folder).values()) == [DONE] * 21
    prediction = read_json(folder.prediction)["hyperparameters"]["lr"]
    assert abs(math.log2(prediction["value"]) + 7.5) < 0.1  # laws that level off have a say with three scales
    assert prediction["low"] < 2**-7.5 < prediction["high"]
    (exponent,) = read_json(folder.path / "fit.json")["hyperparameters"]["lr"]["exponents"].values()
    assert exponent["value"] == pytest.approx(-0.5, abs=0.01)
    verified = command("verify", "bowl", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    verification = read_json(folder.verification)
    assert verification["regret_nats"] == pytest.approx(0, abs=1e-3)
    assert verification["best"]["loss"] == pytest.approx(2 + 32 / 256 + 1 / 3, abs=1e-3)
    exported = json.loads(command("export", "bowl", cwd=tmp_path).stdout)
    assert exported["values"] == {"lr": prediction["value"], "width": 256}
    assert exported["command"] == ["{python}", "train.py", "256", repr(prediction["value"]), "{seed}"]
    again = command("sweep", "bowl.yaml", "tracker=none", cwd=tmp_path)
    assert "21/21 trials" in again.stdout
    assert len(list(folder.jobs.glob("*.log"))) == 26  # none was trained again


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own libraries warn about each other
def test_the_dashboard_has_the_curve_and_the_loss(here: Path) -> None:
    from hptransfer.trackers.mlflow import client

    write_sweep(here)
    overrides = ("grid.width.values=[32]", "target.width=32", "space.lr.extend=0", "tracker=mlflow")
    command("sweep", "bowl.yaml", *overrides, cwd=here)
    store = client(f"sqlite:///{here / 'runs' / 'bowl' / 'mlflow.db'}")
    (experiment,) = [one for one in store.search_experiments() if one.name == "bowl"]
    runs = [run for run in store.search_runs([experiment.experiment_id]) if run.data.tags["trial"] != "sweep"]
    assert len(runs) == 7
    best = min(runs, key=lambda run: float(run.data.metrics["loss"]))
    assert best.data.params["lr"] == repr(2**-6)
    assert len(store.get_metric_history(best.info.run_id, "train_loss")) == 3


# --- what a script is given ------------------------------------------------------------------------

TELL = """
import json, os, sys
seen = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
seen["settings"] = json.load(open(os.environ["HPTRANSFER_SETTINGS"]))
seen["cwd"] = os.getcwd()
json.dump(seen, open(os.path.join(os.environ["HPTRANSFER_TRIAL_DIR"], "seen.json"), "w"))
open(os.environ["HPTRANSFER_METRICS"], "a").write('{"step": 1, "loss": 2}')  # without the line's end, as echo -n does
"""


def test_a_value_comes_to_the_script_as_it_is(here: Path) -> None:
    """Exactly, by every way, and whatever a shell would make of it."""
    values = {"names": {"note": "$(touch x); a 'b' \"c\" *"}, "environment": {"LR_COPY": "{lr}"}}
    argv = ["{python}", "train.py", "--lr={lr}", "{width}", "{note}", '{{"a": {seed}}}', "{params} {tokens} {flops}"]
    trial, outcome, folder = execute(plan_of(here, TELL, command=argv, **values), lr=0.1 + 0.2)
    assert outcome.state == DONE, outcome.error
    seen = json.loads((folder.trial(trial.id) / "seen.json").read_text())
    assert seen["arguments"] == [
        "--lr=0.30000000000000004",
        "32",
        "$(touch x); a 'b' \"c\" *",
        '{"a": 0}',
        f"12288 1000 {6 * 12288 * 1000.0!r}",
    ]
    assert seen["settings"]["lr"] == 0.1 + 0.2
    assert seen["settings"]["width"] == 32
    assert seen["environment"]["HPTRANSFER_LR"] == seen["environment"]["LR_COPY"] == repr(0.1 + 0.2)
    assert seen["environment"]["HPTRANSFER_SEED"] == "0"
    assert seen["environment"]["HPTRANSFER_ATTEMPT"] == "1"
    assert seen["environment"]["HPTRANSFER_NOTE"] == values["names"]["note"]
    assert Path(seen["cwd"]) == here
    assert not (here / "x").exists()


def test_few_files_are_left_of_a_trial(here: Path) -> None:
    trial, _, folder = execute(plan_of(here))
    left = {path.name for path in folder.trial(trial.id).iterdir()}
    assert left == {"trial.json", "settings.json", "metrics.jsonl"}  # and from the worker its lease and outcome


def test_report_does_nothing_outside_of_a_trial_and_imports_nothing(tmp_path: Path) -> None:
    code = "import hptransfer, sys; hptransfer.report(step=1, loss=2.0); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert list(tmp_path.iterdir()) == []


# --- what is taken of it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "loss"),
    [({}, 3.0), ({"reduce": "minimum"}, 1.0), ({"reduce": "mean", "points": 2}, 2.5)],
)
def test_the_metric_is_reduced(here: Path, metric: dict[str, Any], loss: float) -> None:
    _, outcome, _ = execute(plan_of(here, reports(*points(5, 1, 2, 3)), metric=metric))
    assert (outcome.loss, outcome.initial_loss, outcome.steps) == (loss, 5.0, 40)


def test_another_key_and_what_else_is_reported(here: Path) -> None:
    """Numbers that are called like a field of the curve are kept under another name."""
    script = reports(
        '{"step": 1, "train": 4}',
        '{"step": 1, "val": 3, "phase": "x", "loss": 9}',
        '{"step": 2, "train": 2, "tokens": 64, "time": 3.5, "diverged": 0}',
    )
    began = time.time()
    trial, outcome, folder = execute(plan_of(here, script, metric={"key": "val"}))
    assert outcome.loss == 3.0
    curve = read_jsonl(folder.curve_path(trial.id))
    assert all(began - 1 < point["time"] < time.time() + 1 for point in curve)
    shown = [{key: value for key, value in point.items() if key != "time"} for point in curve]
    assert shown == [
        {"step": 1, "tokens": None, "loss": 3.0, "train": 4, "val": 3, "reported_loss": 9},
        {"step": 2, "tokens": None, "loss": None, "train": 2, "reported_tokens": 64, "reported_time": 3.5},
    ]


def test_what_report_is_given_replaces_no_field_of_the_curve(here: Path) -> None:
    script = "import hptransfer; hptransfer.report(step=1, loss=2.0, time=3.5, tokens=64)"
    trial, outcome, folder = execute(plan_of(here, script))
    (point,) = read_jsonl(folder.curve_path(trial.id))
    assert point.pop("time") > 1e9
    assert point == {"step": 1, "tokens": None, "loss": 2.0, "reported_time": 3.5, "reported_tokens": 64}
    assert outcome.loss == 2.0


def test_the_time_itself_may_be_the_metric(here: Path) -> None:
    trial, outcome, folder = execute(plan_of(here, reports('{"step": 1, "time": 3.5}'), metric={"key": "time"}))
    (point,) = read_jsonl(folder.curve_path(trial.id))
    assert outcome.loss == point["loss"] == 3.5
    assert point["time"] > 1e9


RANKS = [
    ({"RANK": "0", "SLURM_PROCID": "1", "LOCAL_RANK": "0"}, True),  # torchrun under srun
    ({"RANK": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
    ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
    ({"SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, False),
    ({"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0", "SLURM_PROCID": "0"}, True),
    ({"OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2", "SLURM_PROCID": "0"}, False),  # mpirun in a batch job
    ({"PMI_RANK": "3"}, False),
    ({"FLUX_TASK_RANK": "3"}, False),
    ({"JSM_NAMESPACE_RANK": "3"}, False),
    ({"PMIX_RANK": "3"}, False),
    ({"MV2_COMM_WORLD_RANK": "3"}, False),
    ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),
    ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
    ({"LOCAL_RANK": "0", "NODE_RANK": "0", "RANK": ""}, True),
]


@pytest.mark.parametrize(("variables", "is_first"), RANKS)
def test_of_several_processes_the_first_one_reports(
    variables: dict[str, str], is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HPTRANSFER_METRICS": str(tmp_path / "rows")}).items():
        monkeypatch.setenv(name, value)
    report(step=1, loss=2.0)
    assert (tmp_path / "rows").exists() == is_first


def test_the_place_of_the_worker_among_others_is_not_the_scripts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four sweeps as the four tasks of one srun."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "3")
    _, outcome, _ = execute(plan_of(here, "import hptransfer; hptransfer.report(loss=2)"))
    assert outcome.loss == 2.0


def test_a_pattern_reads_what_a_script_prints(here: Path) -> None:
    """Also what a progress bar writes over, and on standard error."""
    script = """
import sys
print("epoch 1 | loss: 3.5e0 |")
sys.stderr.write("epoch 2 | loss: 2.5 |\\repoch 3 | loss: 1.5 |")
"""
    pattern = r"epoch (?P<step>\d+) \| loss: (?P<loss>\S+) \|"
    trial, outcome, folder = execute(plan_of(here, script, metric={"pattern": pattern}))
    assert outcome.loss == 1.5
    assert [(point["step"], point["loss"]) for point in read_jsonl(folder.curve_path(trial.id))] == [
        (1, 3.5),
        (2, 2.5),
        (3, 1.5),
    ]


def test_a_long_curve_is_judged_whole_and_kept_thin(here: Path) -> None:
    trial, outcome, folder = execute(
        plan_of(here, reports(*points(*range(3000, 0, -1))), metric={"reduce": "mean", "points": 3000})
    )
    assert outcome.loss == 1500.5
    curve = read_jsonl(folder.curve_path(trial.id))
    assert (len(curve), curve[0]["step"], curve[-1]["step"]) == (500, 10, 30000)
