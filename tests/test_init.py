"""Files of `hptransfer init` compose and plan unchanged; no file is overwritten."""

import subprocess
import sys
import tomllib
from pathlib import Path

from hptransfer import __version__
from tests.support.helpers import ROOT, command, environment


def test_the_file_plans_as_it_is(tmp_path: Path) -> None:
    written = command("init", "script", "mine.yaml", cwd=tmp_path)
    assert (written.returncode, written.stderr) == (0, "")
    assert "hptransfer plan mine.yaml" in written.stdout
    planned = command("plan", "mine.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "total: 21 trials" in planned.stdout
    again = command("init", "script", "mine.yaml", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "hptransfer: mine.yaml exists, and is not overwritten; give another FILE\n"


def test_kinds_are_listed_and_near_ones_named(tmp_path: Path) -> None:
    assert command("init", cwd=tmp_path).stdout.startswith("script ")
    wrong = command("init", "scirpt", cwd=tmp_path)
    assert (wrong.returncode, "Did you mean 'script'?" in wrong.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_the_command_and_has_the_version_of_the_package() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    words = [sys.executable, "-m", "hptransfer", "--version"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == f"hptransfer {pyproject['project']['version']}\n" == f"hptransfer {__version__}\n"
    assert __version__ == "0.2.0"
