"""The private methods of submitit that launcher=slurm uses are pinned to the supported versions."""

import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from submitit.slurm.slurm import SlurmExecutor

from hptransfer.launchers.slurm import submitit_adapter
from hptransfer.launchers.slurm.job_resources import Resources
from tests.support.helpers import ROOT

SUPPORTED = ((1, 5), (2,))  # from this version on, below that one
ADAPTER = "hptransfer/launchers/slurm/submitit_adapter.py"


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def test_pyproject_requires_the_supported_versions():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lower, upper = (".".join(map(str, part)) for part in SUPPORTED)
    assert f"submitit>={lower},<{upper}" in required


def test_the_installed_version_is_supported():
    lower, upper = SUPPORTED
    installed = version("submitit")
    assert lower <= release(installed) < upper, (
        f"submitit {installed} is outside of the supported range: check the methods that {ADAPTER} uses, then change "
        "SUPPORTED here and the requirement in pyproject.toml"
    )


@pytest.mark.parametrize("name", submitit_adapter.PRIVATE_METHODS)
def test_submitit_has_the_private_methods_that_are_used(name):
    method, installed = getattr(SlurmExecutor, name, None), version("submitit")
    assert method is not None, f"submitit {installed} has no SlurmExecutor.{name}: change {ADAPTER}"
    expected, actual = submitit_adapter.PRIVATE_METHODS[name], tuple(inspect.signature(method).parameters)
    assert actual == expected, (
        f"SlurmExecutor.{name} of submitit {installed} has the parameters {actual}, not {expected}: change {ADAPTER}"
    )


def test_all_private_methods_that_are_used_are_pinned():
    used = set(re.findall(r"\b(_\w+)\(", Path(submitit_adapter.__file__).read_text()))
    assert used & {name for name in dir(SlurmExecutor) if not name.startswith("__")} == set(
        submitit_adapter.PRIVATE_METHODS
    )


def test_no_other_module_imports_submitit():
    users = [
        path for path in (ROOT / "hptransfer").rglob("*.py") if re.search(r"(from|import) submitit\b", path.read_text())
    ]
    assert [path.relative_to(ROOT).as_posix() for path in users] == [ADAPTER]


def test_a_script_is_made_without_slurm_on_this_machine(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    text = submitit_adapter.batch_script(
        "name", Resources(minutes=5), ["a=1"], "run it", {"signal": None}, array=(3, 2)
    )
    assert "#SBATCH --array=0-2%2" in text
    assert "#SBATCH --time=5" in text
    assert "--signal" not in text
    assert "a=1" in text.splitlines()
    assert "run it" in text.splitlines()
