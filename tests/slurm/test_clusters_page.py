"""docs/clusters.md is followed to the letter: its files are written, its commands run on a cluster."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hptransfer.core.io import read_json
from hptransfer.core.locks import locked_by
from hptransfer.core.run_folder import RunFolder
from tests.slurm.cluster import Cluster
from tests.support.helpers import ROOT, environment
from tests.support.waiting import files, wait_until

pytestmark = pytest.mark.slurm

PAGE = (ROOT / "docs" / "clusters.md").read_text()
WALK = PAGE[: PAGE.index("## Submitted jobs")]
PROGRAMS = {"hptransfer": f"{sys.executable} -m hptransfer.cli.main", "python": sys.executable}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", WALK, flags=re.DOTALL)


@pytest.mark.slow
def test_the_page_goes_from_a_login_node_to_a_finished_sweep(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (*blocks("python"), *blocks("yaml")):
        name, _, content = block.removeprefix("# ").partition("\n")
        (tmp_path / name).write_text(content.replace("partition: gpu", "partition: low"))
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "lr.yaml"}
    (tmp_path / "bin").mkdir()
    for name, start in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    run = RunFolder(tmp_path / "runs" / "my-script")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        done = subprocess.run(
            shlex.split(line), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if line.endswith("--detach"):
            wait_until(lambda: not locked_by(run.driver_lock), "the end of the driver", progress=files(run.path))
    log = (run.path / "driver.log").read_text()
    assert read_json(run.prediction), log
    assert 0 <= read_json(run.path / "verification.json")["regret_percent"] < 5, log
    assert all(run.read_job(path.name.partition(".")[0]).scheduler for path in run.jobs.glob("*.stacks.json"))
