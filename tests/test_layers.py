"""Imports point down only: the table of docs/architecture.md, checked in every file."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hptransfer"
LAYERS = {
    "core": 0,
    "parameterizations": 1,
    "analysis": 1,
    "training": 2,
    "sweep": 3,
    "config": 4,
    "verify": 4,
    "further": 4,
    "imports": 4,
    "verbs": 5,
    "cli": 6,
}
# Who may import a library of its own; everything else uses what stands below it.
ONLY = {
    "hydra": {"config.py"},
    "omegaconf": {"config.py"},
    "optuna": {
        "sweep/study.py",
        "sweep/halving.py",
        *(f"sweep/samplers/{p.name}" for p in (PACKAGE / "sweep/samplers").glob("*.py")),
    },
    "mlflow": {"sweep/trackers/mlflow.py", "analysis/sources.py"},
    "torch": {
        "sweep/runners/builtin.py",
        *(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.glob("training/**/*.py")),
    },
    "submitit": {"sweep/launchers/_slurm_submit.py"},
    "matplotlib": {"analysis/plots.py"},
    "rich": {"sweep/display.py", "sweep/session.py", "verbs/_base.py"},
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(file: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def part(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file: str) -> None:
    own = file.split("/")[0].removesuffix(".py")
    for module in imports(file):
        if module.startswith("hptransfer.") and own in LAYERS:
            other = part(module)
            allowed = other == own or LAYERS[other] < LAYERS[own]
            # The builtin runner is the one door from the sweep to the trainer.
            if other == "training" and own == "sweep":
                allowed = file == "sweep/runners/builtin.py"
            if {other, own} == {"sweep", "analysis"}:
                allowed = False
            assert allowed, f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES)
def test_each_library_has_its_place(file: str) -> None:
    for module in imports(file):
        library = module.split(".")[0]
        assert library not in ONLY or file in ONLY[library], f"{file} imports {module}"


def test_core_is_the_standard_library_alone() -> None:
    import sys

    for file in FILES:
        if file.startswith(("core/", "parameterizations/")):
            strangers = {m.split(".")[0] for m in imports(file)} - set(sys.stdlib_module_names) - {"hptransfer"}
            assert not strangers, f"{file} imports {strangers}"
