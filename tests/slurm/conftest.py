"""The cluster that the tests of this folder share."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, cluster, install, obstacle


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real SLURM of four nodes. In continuous integration its packages are installed, and it is never left out."""
    ci = os.environ.get("CI") == "true"
    if ci and obstacle():
        install()
    if reason := obstacle():
        if ci:
            pytest.fail(reason)
        pytest.skip(reason)
    with cluster() as running:
        yield running
