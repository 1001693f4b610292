"""The built wheel, outside the checkout, carries its sweeps and presets and works."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.helpers import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_what_the_package_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "hptransfer/_share/sweeps/quickstart.yaml" in names
    assert "hptransfer/_share/configs/launcher/one_worker.yaml" in names
    assert "hptransfer/analysis/report/page.html.j2" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_plan_quickstart_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import hptransfer; print(hptransfer.__file__)"
    where = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(site) in where.stdout
    command = [str(site / "bin" / "hptransfer"), "plan", "quickstart", "launcher=one_worker", "launcher.threads=1"]
    plan = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert "total: 84 trials" in plan.stdout
    assert "of the target's own training FLOPs" in plan.stdout
    assert not (tmp_path / "runs").exists()
