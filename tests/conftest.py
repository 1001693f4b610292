"""What every test leaves as it was."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Before PyTorch is loaded, and for all that tests start: they run beside each other, and small models gain nothing from
# a second thread, but lose much where four share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any test imports a kit: failed checks show their values.
pytest.register_assert_rewrite("hptransfer.testing")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What workers measure here, or are made to believe, is not for later sweeps; other programs keep their caches."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in (("MPLCONFIGDIR", "matplotlib"), ("PIP_CACHE_DIR", "pip")):
            patch.setenv(variable, os.environ.get(variable) or str(home / folder))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
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
