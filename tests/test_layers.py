"""Imports point down only: the table of docs/architecture.md, checked in every file."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hptransfer"
LAYERS = {
    "core": 0,
    "parameterizations": 1,
    "integrations": 1,
    "analysis": 2,
    "training": 2,
    "worker": 3,
    "launchers": 4,
    "samplers": 4,
    "trackers": 4,
    "config": 5,
    "coordcheck": 6,
    "planning": 6,
    "driver": 7,
    "monitor": 8,
    "session": 9,
    "verify": 10,
    "next_trials": 10,
    "smoke_trial": 10,
    "import_runs": 10,
    "cli": 11,
    "testing": 12,
}
# The order inside analysis; pipeline and api use all of it.
ANALYSIS = ["tables", "statistics", "optima", "laws", "predict", "report", "pipeline", "api"]
# What may open the trainer, and what may use the analysis, besides themselves; nothing in between knows either.
OPENS_TRAINING = ("training/", "coordcheck/", "config/compose.py", "worker/runners/builtin.py", "testing/")
USES_ANALYSIS = (
    "analysis/",
    "coordcheck/figure.py",
    "verify.py",
    "next_trials.py",
    "import_runs.py",
    "cli/",
    "testing/",
)
# Who may import a library of its own; everything else uses what stands below it.
ONLY = {
    "hydra": {"config/compose.py"},
    "omegaconf": {"config/compose.py"},
    "optuna": {
        "driver/optuna_studies.py",
        "driver/halving.py",
        "testing/samplers.py",
        *(f"samplers/{p.name}" for p in (PACKAGE / "samplers").glob("*.py")),
    },
    "mlflow": {"trackers/mlflow.py", "analysis/tables/mlflow_tables.py"},
    "torch": {
        "worker/runners/builtin.py",
        *(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.glob("training/**/*.py")),
        *(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.glob("coordcheck/*.py")),
        *(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.glob("testing/*.py")),
        "integrations/transformers.py",
    },
    "transformers": {"integrations/transformers.py"},
    "lightning": {"integrations/lightning.py"},
    "submitit": {"launchers/slurm/submitit_adapter.py"},
    "matplotlib": {"analysis/report/figures.py", "coordcheck/figure.py"},
    "rich": {"monitor/tables.py", "coordcheck/table.py", "session/session.py", "cli/verb.py"},
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MODULES = {f"hptransfer/{file}".removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in FILES}


def imported_modules(source: str) -> set[str]:
    """Modules that a source imports, at any depth of its functions.

    `from package import name` counts as an import of package.name where that is a module of this package.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            names |= members
            if len(members) < len(node.names):
                names.add(node.module)
    return names


@cache
def imports(file: str) -> set[str]:
    return imported_modules((PACKAGE / file).read_text())


def own_imports(file: str) -> set[str]:
    """Those of a file's imports that are modules of this package."""
    return {module for module in imports(file) if module.startswith("hptransfer.")}


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from hptransfer.analysis import pipeline", "hptransfer.analysis.pipeline"),
        ("from hptransfer import verify", "hptransfer.verify"),
        ("def run():\n    from hptransfer.driver import driver as loop", "hptransfer.driver.driver"),
        ("from hptransfer.launchers import Launcher", "hptransfer.launchers"),
    ],
)
def test_an_import_of_a_module_from_its_package_is_found(line: str, module: str) -> None:
    """A control of `imports`, on which every test of this file depends."""
    assert imported_modules(line) == {module}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("core/io.py", "from hptransfer.analysis import pipeline"),
        ("planning/plan.py", "from hptransfer.driver import driver"),
        ("driver/driver.py", "from hptransfer import verify"),
    ],
)
def test_an_import_of_a_module_from_its_package_may_not_point_up(file: str, line: str) -> None:
    """A control: each of these lines would fail in its file."""
    assert forbidden_imports(file, imported_modules(line))


def test_an_import_inside_analysis_may_not_point_up() -> None:
    """A control: the line would fail in its file."""
    assert forbidden_in_analysis(
        "analysis/tables/arrays.py", imported_modules("from hptransfer.analysis import pipeline")
    )


def test_no_test_module_imports_from_another() -> None:
    """Shared helpers are in tests/support."""
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules = [name for name in names if name.startswith("tests.")]
            shared = [name for name in modules if name.split(".")[-1].startswith("test_")]
            assert not shared, f"{path.name} imports {', '.join(shared)}"


def part(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def forbidden_imports(file: str, modules: set[str]) -> list[str]:
    """Those of a file's imports that do not point down."""
    importer = file.split("/")[0].removesuffix(".py")
    return [module for module in modules if importer in LAYERS and not is_allowed(file, importer, module)]


def is_allowed(file: str, importer: str, module: str) -> bool:
    imported = part(module)
    if imported not in LAYERS:
        return True
    if imported == "training":
        return file.startswith(OPENS_TRAINING)
    if imported == "analysis":
        return file.startswith(USES_ANALYSIS)
    return imported == importer or LAYERS[imported] < LAYERS[importer]


def test_imports_point_down() -> None:
    for file in FILES:
        assert {part(module) for module in own_imports(file)} <= LAYERS.keys(), file
        assert not forbidden_imports(file, own_imports(file)), file


def forbidden_in_analysis(file: str, modules: set[str]) -> list[str]:
    """Those of a file's imports inside analysis that point up."""
    importer = file.split("/")[1].removesuffix(".py")
    parts = {module: module.split(".")[2] for module in modules if module.startswith("hptransfer.analysis.")}
    order = {name: place for place, name in enumerate(ANALYSIS)}
    return [module for module, name in parts.items() if importer in order and order[name] > order[importer]]


def test_imports_inside_analysis_point_down() -> None:
    for file in FILES:
        if file.startswith("analysis/"):
            assert not forbidden_in_analysis(file, imports(file)), file


def test_no_module_imports_another_in_a_circle() -> None:
    """Neither at the top of a file nor inside a function; a package's own `__init__` stands for its contract."""
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    imported = {
        name: {part for module in imports(file) if (part := module.removeprefix("hptransfer.")) in modules} - {name}
        for name, file in modules.items()
        if not file.endswith("__init__.py")
    }
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) != 1, f"circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in state:
            state[name] = 1
            for module in imported.get(name, ()):
                visit(module, (*path, name))
            state[name] = 2

    for name in imported:
        visit(name, ())


def test_no_folder_has_more_than_fourteen_modules() -> None:
    for folder in sorted({(PACKAGE / file).parent for file in FILES} - {PACKAGE}):
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 14, f"{folder.relative_to(PACKAGE)}: {', '.join(modules)}"


def private_imports_from_outside(file: str, modules: set[str]) -> list[str]:
    """Private modules among a file's imports that belong to another family."""
    outside = []
    for module in modules:
        family, _, name = module.removeprefix("hptransfer.").replace(".", "/").rpartition("/")
        if name.startswith("_") and not name.startswith("__") and not file.startswith(f"{family}/"):
            outside.append(module)
    return outside


def test_private_modules_are_imported_by_their_own_family_alone() -> None:
    for file in FILES:
        assert not private_imports_from_outside(file, own_imports(file)), file


def test_an_import_of_a_private_module_from_outside_is_found() -> None:
    """A control: the line would fail in its file."""
    line = "from hptransfer.parameterizations import _base"
    assert private_imports_from_outside("training/stack.py", imported_modules(line))
    assert not private_imports_from_outside("parameterizations/mup.py", imported_modules(line))


def test_each_library_has_its_place() -> None:
    for file in FILES:
        for module in imports(file):
            library = module.split(".")[0]
            assert library not in ONLY or file in ONLY[library], f"{file} imports {module}"


def test_core_is_the_standard_library_alone() -> None:
    import sys

    for file in FILES:
        if file.startswith(("core/", "parameterizations/")):
            outside = {module.split(".")[0] for module in imports(file)} - set(sys.stdlib_module_names) - {"hptransfer"}
            assert not outside, f"{file} imports {outside}"
