"""What every test leaves as it was."""

import ctypes
import gc
import os
import resource
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from hptransfer.config import compose
from hptransfer.config.package_data import resource_folders

ROOT = Path(__file__).parents[1]

# Before PyTorch is loaded, and for all that tests start: they run beside each other, and small models gain nothing from
# a second thread, but lose much where four share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any test imports a kit: failed checks show their values.
pytest.register_assert_rewrite("hptransfer.testing")


# Files that compare with, or connect to, packages of the extra `interop`: `make test-interop` installs them.
INTEROP = {
    "integrations/test_lightning.py": "lightning",
    "integrations/test_transformers.py": "transformers",
    "parameterizations/test_mup_package.py": "mup",
    "parameterizations/test_unit.py": "unit_scaling",
    "training/test_unit_oracle.py": "unit_scaling",
}
collect_ignore = [file for file, package in INTEROP.items() if not find_spec(package)]


# Pure functions, messages, and the driver on a scripted launcher: `make test-fast`.
FAST = (
    *("analysis/tables/", "analysis/laws/test_every_law.py", "analysis/optima/test_every_estimator.py"),
    *("analysis/optima/test_divergence.py", "analysis/optima/test_estimators.py", "analysis/optima/test_loss_curve.py"),
    *("analysis/predict/test_data_warnings.py", "analysis/predict/test_findings.py"),
    *("analysis/predict/test_published_laws.py", "analysis/predict/test_untuned_columns.py"),
    *("analysis/laws/test_exponents.py", "driver/test_attempt_log.py", "driver/test_budget.py"),
    *("config/", "core/", "samplers/", "planning/test_plan.py", "planning/test_search_space.py"),
    *("driver/test_job_sizes.py", "driver/test_requests.py", "driver/test_retries.py"),
    *("driver/test_scheduler.py", "driver/test_job_states.py", "driver/test_identities.py", "driver/test_ticks.py"),
    *("launchers/test_slurm_docs.py", "launchers/test_submitit_adapter.py", "monitor/test_status.py"),
    *("parameterizations/test_every_parameterization.py", "parameterizations/test_parameterizations.py"),
    "parameterizations/test_group_rules.py",
    *("test_layers.py", "test_packages.py", "test_prose.py", "trackers/test_background.py"),
)


def within_tests(path: Path) -> str:
    """The path of a test file below this folder."""
    return path.relative_to(ROOT / "tests").as_posix()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no other file where only fast tests are asked for."""
    if config.getoption("markexpr") != "fast" or not collection_path.match("test_*.py"):
        return None
    return not within_tests(collection_path).startswith(FAST) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark fast tests and those of the extra `interop`; order the long ones first, so that none is left for the end."""
    for item in items:
        file = within_tests(item.path)
        if file in INTEROP:
            item.add_marker("interop")
        if file.startswith(FAST) and not any(item.iter_markers("slow")):
            item.add_marker("fast")
    items.sort(key=lambda item: (not within_tests(item.path).startswith("slurm/"), item.path.parent != ROOT / "tests"))


class FileScheduling(LoadScopeScheduling):
    """Schedule of the files of tests: a file's tests share a process for its fixtures, and all of SLURM's do."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/slurm" if nodeid.startswith("tests/slurm/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    return FileScheduling(config, log)


FILE_CPU_S = 40.0
"""Processor time of a test file, above which the summary names it."""
LARGE_PROCESS = 1 << 30
"""Bytes of resident memory, above which freed memory is handed back at the end of a module."""


def processor_time() -> float:
    """Seconds of this process and of its children that were waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Adds a test's processor time to its last report: xdist carries it to the process that prints the summary."""
    report = yield
    if call.when == "teardown":
        now = processor_time()
        report.user_properties.append(("cpu_s", now - item.config.stash.get(LAST_CPU, STARTED)))
        item.config.stash[LAST_CPU] = now
    return report


LAST_CPU = pytest.StashKey[float]()
STARTED = processor_time()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Freeze imported objects, so that collection at the end of a module is cheap."""
    gc.collect()
    gc.freeze()
    session.config.stash[LAST_CPU] = processor_time()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the files that take the most processor time."""
    used: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", None) == "teardown":
            used[report.nodeid.partition("::")[0]] += dict(report.user_properties).get("cpu_s", 0.0)
    terminalreporter.write_line(f"processor time of all tests: {sum(used.values()):.0f} s")
    for file, seconds in used.most_common():
        if seconds > FILE_CPU_S:
            terminalreporter.write_line(f"{file} takes {seconds:.0f} s of processor time, more than {FILE_CPU_S:.0f}")


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Compose a sweep of this checkout once a process for the same choices: Hydra takes a quarter of a second."""
    composed, known = compose._composed, {}

    def composed_or_known(folder: Path, name: str, choices: Sequence[str]) -> Any:
        if folder != ROOT / "sweeps":
            return composed(folder, name, choices)
        key = (name, *choices, *resource_folders("configs"))
        if key not in known:
            known[key] = composed(folder, name, choices)
        return deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_composed", composed_or_known)
        yield


@pytest.fixture(autouse=True, scope="module")
def leftovers() -> Iterator[None]:
    """Report a module's leftovers in that module, and hand back its memory."""
    yield
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if resident > LARGE_PROCESS:
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What workers measure here, or are made to believe, is not for later sweeps; other programs keep their caches."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in (("MPLCONFIGDIR", "matplotlib"), ("PIP_CACHE_DIR", "pip")):
            patch.setenv(variable, os.environ.get(variable) or str(home / folder))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Workers that a test runs in this process restrict the files they make, and so all that later tests would make."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a script that imports this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for this test's own measurements of stacks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hptransfer" / "stacks"
