"""The workflow of a user: plan, sweep, status, verify, export, logs; and bad input."""

import json
import os
from pathlib import Path

import pytest
import yaml

from hptransfer.core.io import read_json
from hptransfer.core.records import VERIFY
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import TINY, command

SMALL = (*TINY, "space.lr.low=0.00048828125", "space.lr.high=0.25", "space.lr.count=10", "space.lr.extend=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished and verified run, created by the commands alone."""
    folder = tmp_path_factory.mktemp("smoke")
    swept = command("sweep", "quickstart", *SMALL, "launcher.workers=1", cwd=folder)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "recommended lr for width=64, depth=1, tokens=4096:" in swept.stdout
    verified = command("verify", "quickstart", cwd=folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "regret of the prediction" in verified.stdout
    return folder


def test_the_verification_says_what_the_prediction_lost(place: Path) -> None:
    folder = RunFolder(place / "runs" / "quickstart")
    verification = read_json(folder.verification)
    losses = [point["loss"] for point in verification["points"] if point["loss"] is not None]
    assert len(losses) >= 5
    assert verification["best"]["loss"] <= min(losses) + 1e-9
    assert 0 <= verification["regret_nats"] < 0.5
    assert verification["regret_percent"] == pytest.approx(
        100 * verification["regret_nats"] / verification["best"]["loss"]
    )
    assert set(verification["error_octaves"]) == {"lr"}
    assert verification["untransferred"]["regret_nats"] is None or verification["untransferred"]["regret_nats"] >= 0
    assert ": regret of this value; the target" in folder.report.read_text()
    assert {trial.purpose for trial in folder.read_trials() if trial.scale.axes["width"] == 64} == {VERIFY}


def test_verifying_again_trains_nothing(place: Path) -> None:
    before = sorted((place / "runs" / "quickstart" / "trials").iterdir())
    assert command("verify", "quickstart", cwd=place).returncode == 0
    assert sorted((place / "runs" / "quickstart" / "trials").iterdir()) == before


def test_the_answer_is_exported_as_json_and_yaml(place: Path) -> None:
    answer = json.loads(command("export", "quickstart", cwd=place).stdout)
    assert yaml.safe_load(command("export", "quickstart", "--format", "yaml", cwd=place).stdout) == answer
    value = answer["hyperparameters"]["lr"]["value"]
    assert answer["groups"]["hidden"]["lr"] == pytest.approx(value)  # at the base width, 64
    assert set(answer["groups"]) == {"input", "hidden", "output"}
    folder = RunFolder(place / "runs" / "quickstart")
    verified = [trial for trial in folder.read_trials() if trial.purpose == VERIFY]
    at_the_prediction = next(trial for trial in verified if trial.tuned["lr"] == pytest.approx(value))
    outcome = folder.read_outcome(at_the_prediction.id)
    assert outcome is not None
    for group in outcome.groups:
        numbers = answer["groups"][group["role"]]
        assert {key: numbers[key] for key in numbers.keys() & group.keys()} == pytest.approx(
            {key: group[key] for key in group if key not in ("role", "parameters")}
        )


def test_status_and_logs_tell(place: Path) -> None:
    status = command("status", "quickstart", cwd=place).stdout
    assert "no driver runs" in status
    assert any(line.split()[:4] == ["verify", "64", "1", "4096"] for line in status.splitlines())
    trial = sorted((place / "runs" / "quickstart" / "trials").iterdir())[0].name
    lines = command("logs", "quickstart", trial[:6], cwd=place).stdout.splitlines()
    assert lines[0].startswith(trial)
    assert any("step 16 loss" in line for line in lines)
    assert not any(line.startswith("trial ") and trial not in line for line in lines)


def test_a_table_from_elsewhere_is_analyzed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "targets.csv").write_text("width\n64\n")
    records = place / "runs" / "quickstart" / "records.csv"
    options = ["--table", str(records), "--scale", "width", "--tune", "lr", "--targets", "targets.csv", "--out", "out"]
    done = command("analyze", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "predictions.csv").read_text().startswith("width,lr,lr_center,lr_low,lr_high,")
    assert (tmp_path / "out" / "report.html").exists()


BAD = [
    (("sweep", "quikstart"), "unknown sweep 'quikstart'. Did you mean 'quickstart'?"),
    (("sweep", "quickstart", "run.parameterization=sp"), "belongs to another sweep: run."),
    (("status", "quikstart"), "unknown run 'quikstart'. Did you mean 'quickstart'?"),
    (("verify", "quickstart", "widht=128"), "unknown axis 'widht'. Did you mean 'width'?"),
    (("verify", "quickstart", "width=40"), "must be a multiple of run.model.head_dim"),
    (("verify", "quickstart", "width=wide"), "width must be a number, as in width=64, got 'wide'"),
    (("logs", "quickstart", "zzz"), "no trial whose id begins with 'zzz'"),
    (("list", "optimisers"), "unknown family 'optimisers'. Did you mean 'optimizer'?"),
    (("analyze",), "analyze takes one of RUN, --table FILE and --mlflow URI"),
    (("analyze", "--table", "x.csv"), "analyze of a table needs --scale"),
    (("swep", "quickstart"), "unknown verb 'swep'. Did you mean 'sweep'?"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(place: Path, arguments: tuple[str, ...], message: str) -> None:
    done = command(*arguments, cwd=place)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = command("sweep", "quickstart", *SMALL, f"runs={tmp_path}/runs")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    done = command("sweep", "quickstart", *SMALL, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
