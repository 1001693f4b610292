"""docs/your-script.md is followed word for word: its files are written, its commands run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hptransfer.core.io import read_json
from tests.support.helpers import ROOT, command, environment

PYTHON = sys.executable
PAGE = (ROOT / "docs" / "your-script.md").read_text()


def blocks(*languages: str) -> list[str]:
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_the_page_goes_from_nothing_to_a_finished_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks("python", "yaml", "text"):
        if named := re.match(r"# ([\w.]+)\n", block):  # others are fragments, which the pages' tests plan
            (tmp_path / named[1]).write_text(block[named.end() :])
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "lr.yaml", "old.csv"}
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 12
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{environment()['PATH']}"
    monkeypatch.setenv("PATH", path)  # where trials find python
    for line in lines:
        program, *arguments = line.split()
        if program == "hptransfer":
            done = command(*arguments, cwd=tmp_path)
        else:
            words = [str(tmp_path / "bin" / program), *arguments]
            done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if line.startswith("hptransfer import my-script"):
            assert "0 trials imported; 2 existed already" in done.stdout
    run = tmp_path / "runs" / "my-script"
    assert 0 <= read_json(run / "verification.json")["regret_percent"] < 5
    assert (run / "report.html").exists()
