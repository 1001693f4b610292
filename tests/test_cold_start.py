"""Help, list, status and analyze start fast: they import neither PyTorch nor MLflow nor Optuna."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import command, environment, finished_run, sweep_arguments
from tests.support.slow import slow_except

SCRIPT = """\
defaults: [sweep, run: script, sampler: grid, launcher: slurm, tracker: none, _self_]
name: mine
run: {command: [python, train.py, "{width}", "{lr}"], params: width, tokens: 100}
grid: {width: {values: [8, 16, 32]}}
space: {lr: {low: 0.01, high: 1.0, count: 3}}
target: {width: 64}
"""
HEAVY = ("torch", "mlflow", "optuna", "hydra")


def heavy_imports(arguments: list[str], cwd: Path, names: tuple[str, ...] = HEAVY) -> list[str]:
    code = (
        "import sys\nfrom hptransfer.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print([name for name in {names} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, check=True
    )
    found: list[str] = eval(done.stderr.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of four scales."""
    folder = tmp_path_factory.mktemp("cold")
    overrides = ("grid.width.values=[16,32]", "grid.tokens.values=[4096,8192]", "tracker=none", "+target.tokens=16384")
    values = ("space.lr.low=0.001953125", "space.lr.high=0.125", "space.lr.count=7")
    run = finished_run(sweep_arguments(folder / "runs", *overrides, *values)[2:])
    assert command("analyze", str(run.path), cwd=folder).returncode == 0
    return folder


def test_help_and_list_import_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_imports(["--help"], tmp_path) == []
    assert heavy_imports(["list"], tmp_path) == []


@pytest.mark.parametrize("verb", slow_except(["status", "analyze", "export"], "status"))
def test_reading_a_run_imports_nothing_heavy(runs: Path, verb: str) -> None:
    assert heavy_imports([verb, "quickstart"], runs) == []


@pytest.mark.slow
def test_reading_a_table_imports_nothing_heavy(runs: Path) -> None:
    (runs / "targets.csv").write_text("width,tokens\n64,16384\n")
    files = ["--table", "runs/quickstart/records.csv", "--targets", "targets.csv", "--out", "out", "--format", "svg"]
    assert heavy_imports(["analyze", "--scale", "width,tokens", "--tune", "lr", *files], runs) == []


def test_a_sweep_of_a_script_opens_no_pytorch(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "mine.yaml").write_text(SCRIPT)
    assert heavy_imports(["plan", "mine.yaml"], tmp_path, ("torch",)) == []


def test_a_dry_run_opens_no_analysis(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "mine.yaml").write_text(SCRIPT)
    assert heavy_imports(["sweep", "mine.yaml", "--dry-run"], tmp_path, ("torch", "pandas", "matplotlib")) == []


@pytest.mark.slow
def test_they_do_when_they_train(tmp_path: Path) -> None:
    """The control: the check can see such an import."""
    assert "torch" in heavy_imports(["plan", "quickstart"], tmp_path)
