"""The examples run: a plain transformer becomes muP by one call, and its best learning rate stays."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, command, environment

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
    """Of the best rate over width, as `hptransfer analyze` finds it."""
    table = ("--table", str(folder / f"{name}.csv"), "--targets", str(folder / "targets.csv"))
    done = command("analyze", *table, "--scale", "width", "--tune", "lr", "--out", str(folder / name))
    assert done.returncode == 0, done.stderr
    fit = json.loads((folder / name / "fit.json").read_text())
    found: dict[str, float] = fit["hyperparameters"]["lr"]["exponents"]["width"]
    return found


def test_the_optimum_stays_under_mup_and_falls_without(swept: Path) -> None:
    mup, sp = exponent(swept, "mup"), exponent(swept, "sp")
    assert abs(mup["value"]) < 0.25
    assert sp["value"] < -0.4


def test_both_are_the_same_model_at_the_base(swept: Path) -> None:
    tables = [list(csv.DictReader((swept / f"{name}.csv").read_text().splitlines())) for name in ("mup", "sp")]
    at_base = [[row["loss"] for row in table if row["width"] == "32"] for table in tables]
    assert at_base[0] == at_base[1]
    assert len(at_base[0]) == 6


def test_the_model_knows_nothing_of_the_package() -> None:
    source = (ROOT / "examples" / "plain_transformer.py").read_text()
    assert not re.search(r"import hptransfer|from hptransfer", source)


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
