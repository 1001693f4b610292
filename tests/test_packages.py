"""What needs Debian's packages is skipped with the command that installs them, and never in continuous integration."""

import os
import subprocess
from typing import Any

import pytest

from tests.support.packages import needed

MISSING = "PostgreSQL is not installed"


def test_without_a_package_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("installed unasked"))
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install -y --no-install-recommends postgresql"):
        needed(["postgresql"], lambda: MISSING)


def test_continuous_integration_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(subprocess, "run", lambda words, **_: calls.append(words))
    needed(["postgresql"], lambda: None if len(calls) == 2 else MISSING)
    assert [words[1] for words in calls] == ["update", "install"]


def test_continuous_integration_never_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        needed(["postgresql"], lambda: MISSING)
