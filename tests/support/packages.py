"""Debian's packages that some tests need: in continuous integration they are installed, elsewhere asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def needed(packages: Sequence[str], reason: Callable[[], str | None]) -> None:
    """Goes on if everything is there; else skips the test with the command that installs it.

    With CI=true nothing is skipped: as root on Debian the packages are installed, and what is missing then fails.

    Args:
        reason: why the tests cannot run as things are; None if they can.
    """
    in_ci = os.environ.get("CI") == "true"
    if in_ci and reason() and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *words], env=environment, check=True, capture_output=True)
    if why := reason():
        text = f"{why}; as root: apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
        pytest.fail(text) if in_ci else pytest.skip(text)


def postgresql() -> Path | None:
    """Folder of the newest PostgreSQL's programs, which Debian keeps off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).parent if elsewhere else None
