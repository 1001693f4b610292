"""What every test leaves as it was."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Workers that a test runs in this process restrict the files they make, and so all that later tests would make."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
