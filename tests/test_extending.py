"""Members of another package are found by their entry points: examples/extension, installed beside hptransfer."""

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from hptransfer.analysis.laws.forms import LAWS
from hptransfer.cli.start import FAMILY_PACKAGES
from hptransfer.testing.laws import ANY_AXES, check_terms
from tests.support.helpers import ROOT

EXTENSION = ROOT / "examples" / "extension"
PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it."""
    target = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    words = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(target), str(EXTENSION)]
    subprocess.run(words, check=True, capture_output=True)
    return target


def beside(installed: Path, *words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(installed)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_members_are_listed_and_used(installed: Path) -> None:
    listed = beside(installed, "hptransfer.cli.main", "list")
    assert "curved" in listed
    assert "signum" in listed
    check = beside(installed, "hptransfer.cli.main", "coord-check", "run/model=mlp", "run/optimizer=signum")
    assert "passed" in check


@pytest.mark.slow
def test_a_law_is_weighed_with_the_others(installed: Path, tmp_path: Path) -> None:
    """The optimum bends by 0.2 octaves per octave squared: the law that bends takes the weight."""
    with (tmp_path / "runs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["width", "lr", "loss"])
        for octave in range(5):
            for step in range(-3, 4):
                optimum = -8 - 0.2 * octave**2
                x = round(optimum) + step
                rows.writerow([64 * 2**octave, 2.0**x, 2.0 + 0.02 * (x - optimum) ** 2])
    (tmp_path / "targets.csv").write_text("width\n2048\n")
    table = ["--table", "runs.csv", "--scale", "width", "--tune", "lr", "--targets", "targets.csv", "--out", "out"]
    beside(installed, "hptransfer.cli.main", "analyze", *table, "--laws", "power,curved", cwd=tmp_path)
    laws = json.loads((tmp_path / "out" / "fit.json").read_text())["laws"]
    assert laws["curved"] > 0.5 > laws["power"]


@pytest.mark.slow
def test_members_pass_their_kits(installed: Path, tmp_path: Path) -> None:
    words = ["pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(EXTENSION / "test_members.py")]
    assert "passed" in beside(installed, *words, cwd=tmp_path)


def test_the_page_shows_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points = tomllib.loads((EXTENSION / "pyproject.toml").read_text())["project"]["entry-points"]
    shown = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)[0])
    assert shown["project"]["entry-points"] == entry_points
    law, kits = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.setattr(LAWS, "_members", dict(LAWS._members))  # the page's law is for this test alone
    exec(law, {})
    check_terms("curved", ANY_AXES)
    assert kits in (EXTENSION / "test_members.py").read_text()


@pytest.mark.parametrize("family", FAMILY_PACKAGES)
def test_every_family_has_its_contract_on_the_page(family: str) -> None:
    row = re.search(rf"^\| {family} \| `(\w+)` \| `(\w+)` in `([\w/]+)/` \|$", PAGE, flags=re.MULTILINE)
    assert row is not None
    registry, contract, folder = row.groups()
    package = import_module(f"hptransfer.{folder.replace('/', '.')}")
    assert package.__name__ == FAMILY_PACKAGES[family]
    assert getattr(package, registry).family == family
    assert isinstance(getattr(package, contract), type)
