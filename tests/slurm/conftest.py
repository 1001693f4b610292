"""The cluster that the tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import PACKAGES, Cluster, cluster, obstacle
from tests.support.helpers import ROOT
from tests.support.packages import needed


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real SLURM of four nodes. In continuous integration its packages are installed, and it is never left out."""
    needed(PACKAGES, obstacle)
    with cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def cleaned_up(slurm: Cluster) -> Iterator[None]:
    """No test finds the jobs of another."""
    yield
    slurm.clean_up()


@pytest.fixture
def here(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """This process as a client of the cluster, inside what looks like an allocation of it."""
    for key in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(key, slurm.environment[key])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SBATCH_PARTITION", "no-such-partition")
    monkeypatch.setenv("SLURM_JOB_ID", "999999")
    return slurm
