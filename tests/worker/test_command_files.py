"""Arguments of a command that are files: their content is part of a sweep's identity, and is never held in memory."""

import os
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core import io
from hptransfer.core.errors import ConfigError
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS
from hptransfer.worker.runners.script.config import script_from_json
from tests.support.helpers import command

SWEEP = """\
defaults: [sweep, run: script, sampler: grid, launcher: local, tracker: none, _self_]
name: s
run: {command: [python, "{width}", "{lr}"], params: width, tokens: 1000}
grid: {width: {values: [32, 64]}}
space: {lr: {low: 0.001, high: 0.1, count: 5}}
"""


def fingerprint(folder: Path, *arguments: str) -> str:
    run: dict[str, Any] = {"command": ["python", *arguments], "cwd": str(folder)}
    RUNNERS.get("script").check_files(run, RunFolder(folder / "run"))
    return RUNNERS.get("script").fingerprint(run)


@pytest.mark.parametrize("argument", ["a" * 300, "a/" * 3000, "--text=" + "b" * 5000])
def test_a_long_argument_is_no_file(tmp_path: Path, argument: str) -> None:
    (tmp_path / "train.py").write_text("")
    assert fingerprint(tmp_path, "train.py", argument) == fingerprint(tmp_path, "train.py")


def test_a_large_file_is_known_by_its_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"x" * 64)
    small = fingerprint(tmp_path, "data.bin")
    os.utime(data, ns=(1, 1))
    assert fingerprint(tmp_path, "data.bin") == small
    monkeypatch.setattr(io, "LARGEST_HASHED", 32)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read whole"))
    large = fingerprint(tmp_path, "data.bin")
    assert large != small
    os.utime(data, ns=(2, 2))
    assert fingerprint(tmp_path, "data.bin") != large


def test_a_sparse_file_of_terabytes_is_fingerprinted_at_once(tmp_path: Path) -> None:
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(10**12)
    assert fingerprint(tmp_path, "data.bin")


def test_the_character_0_is_refused_in_an_argument() -> None:
    with pytest.raises(ConfigError, match=r"run.command\[1\] must not hold the character 0"):
        script_from_json({"command": ["python", "a\0b"]}).check()


@pytest.mark.parametrize(
    "words", [["plan", "a" * 300 + ".yaml"], ["status", "a" * 300], ["plan", "s.yaml", "run.cwd=" + "a" * 300]]
)
def test_a_path_longer_than_a_file_name_is_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is too long for a file" in done.stderr
