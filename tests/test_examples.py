"""The examples run: one call puts a plain transformer under muP, and its best learning rate stays."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hptransfer.core.errors import EXIT_DONE, EXIT_NO_LAW
from hptransfer.core.io import read_jsonl
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import ROOT, command, environment, outcomes
from tests.support.waiting import Process, wait_until

SCRIPT = ROOT / "examples" / "sweep_plain_transformer.py"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, short: two widths and six rates."""
    folder = tmp_path_factory.mktemp("examples")
    short = [
        "--widths",
        "32",
        "128",
        "--log2-lr",
        "-9",
        "-8",
        "-7",
        "-6",
        "-5",
        "-4",
        "--seeds",
        "1",
        "--steps",
        "100",
        "--processes",
        "1",
    ]
    subprocess.run([sys.executable, SCRIPT, "--out", folder, *short], env=environment(), check=True)
    return folder


def exponent(folder: Path, name: str) -> dict[str, float]:
    """Exponent of the best rate over width, as `hptransfer analyze` reports it."""
    table = ("--table", str(folder / f"{name}.csv"), "--targets", str(folder / "targets.csv"))
    done = command("analyze", *table, "--scale", "width", "--tune", "lr", "--out", str(folder / name))
    assert done.returncode == 0, done.stderr
    fit = json.loads((folder / name / "fit.json").read_text())
    over_width: dict[str, float] = fit["hyperparameters"]["lr"]["exponents"]["width"]
    return over_width


@pytest.mark.slow
def test_the_optimum_stays_under_mup_and_falls_without(swept: Path) -> None:
    mup, sp = exponent(swept, "mup"), exponent(swept, "sp")
    assert abs(mup["value"]) < 0.25
    assert sp["value"] < -0.4


@pytest.mark.slow
def test_both_are_the_same_model_at_the_base(swept: Path) -> None:
    tables = [list(csv.DictReader((swept / f"{name}.csv").read_text().splitlines())) for name in ("mup", "sp")]
    at_base = [[row["loss"] for row in table if row["width"] == "32"] for table in tables]
    assert at_base[0] == at_base[1]
    assert len(at_base[0]) == 6


def test_the_model_does_not_import_the_package() -> None:
    source = (ROOT / "examples" / "plain_transformer.py").read_text()
    assert not re.search(r"import hptransfer|from hptransfer", source)


@pytest.mark.slow
def test_a_billion_parameters_are_resolved_in_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "parameterize.py"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    billions = re.search(r"parameters ([0-9.]+) billion", done.stdout)
    peak = re.search(r"peak_mb ([0-9]+)", done.stdout)
    assert billions is not None
    assert peak is not None
    assert float(billions[1]) > 1
    assert int(peak[1]) < 500


# --- trainers that sweeps run unchanged ------------------------------------------------------------


def sweep_example(name: str, runs: Path, *overrides: str) -> RunFolder:
    """An example's own sweep file, run from the checkout as its page shows; "python" is this interpreter."""
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "hptransfer.cli.main", "sweep", f"examples/{name}.yaml", f"runs={runs}", *overrides],
        cwd=ROOT,
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    # Three values may not bracket an optimum, and then no law is fitted.
    assert done.returncode in (EXIT_DONE, EXIT_NO_LAW), done.stdout + done.stderr
    folder = RunFolder(runs / name.replace("_", "-"))
    assert set(outcomes(folder).values()) == {"done"}
    return folder


@pytest.mark.slow
def test_a_plain_trainer_is_swept(tmp_path: Path) -> None:
    folder = sweep_example("plain_trainer", tmp_path, "tracker=none", "grid.width.values=[32,64]")
    low, high = (json.loads(folder.prediction.read_text())["hyperparameters"]["lr"][key] for key in ("low", "high"))
    assert 0.001 < low < high < 0.3
    for trial in folder.read_trials():
        files = {path.name for path in folder.trial(trial.id).iterdir()}
        assert files == {"trial.json", "settings.json", "lease", "metrics.jsonl", "outcome.json"}


def test_a_plain_trainer_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    """Stopped in the middle and restarted, it ends with the same losses as an undisturbed one."""
    curves = []
    for stops in (0, 1):
        folder = tmp_path / str(stops)
        folder.mkdir()
        metrics = folder / "metrics"
        variables = {"HPTRANSFER_TRIAL_DIR": str(folder), "HPTRANSFER_METRICS": str(metrics)}
        for attempt in range(stops + 1):
            script = Process(
                [sys.executable, ROOT / "examples" / "plain_trainer.py", "--width=64", "--lr=0.01", "--steps=2000"],
                env={**environment(), **variables},
                stdout=subprocess.DEVNULL,
            )
            with script:
                if attempt < stops:
                    wait_until(lambda path=metrics: path.exists() and path.stat().st_size, "a point", process=script)
                    script.terminate()
                assert script.wait() == (1 if attempt < stops else 0)
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        curves.append([(row["step"], row["loss"]) for row in rows])
    assert curves[0] == curves[1]
    assert len(curves[0]) == 200


@pytest.mark.slow
def test_a_hydra_application_is_swept_unchanged(tmp_path: Path) -> None:
    source = (ROOT / "examples" / "hydra_app" / "train.py").read_text()
    assert "import hptransfer" not in source
    folder = sweep_example("hydra_app", tmp_path, "tracker=none")
    assert len(outcomes(folder)) == 21
    assert folder.prediction.exists()


@pytest.mark.slow
def test_a_trainer_on_two_processes_is_swept(tmp_path: Path) -> None:
    one_scale = ("grid.width.values=[32]", "target.width=32", "space.lr.count=3", "space.lr.extend=0", "tracker=none")
    folder = sweep_example("ddp_trainer", tmp_path, *one_scale)
    for trial in folder.read_trials():
        curve = read_jsonl(folder.curve_path(trial.id))
        assert [point["processes"] for point in curve] == [2.0] * 10
        assert [point["step"] for point in curve] == list(range(10, 101, 10))
