"""A driver in the background survives its terminal; errors are reported before."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from hptransfer.core.locks import locked_by
from hptransfer.core.records import DONE
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import command, environment, outcomes, start, sweep_arguments
from tests.support.waiting import files, wait_until

SLOW = ("tracker=none", "grid.tokens.values=[49152]", "space.lr.count=4", "launcher.workers=1")


def test_it_lives_on_when_its_terminal_hangs_up(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quickstart")
    leader, follower = pty.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-m", "hptransfer.cli.main", *sweep_arguments(tmp_path, *SLOW), "--detach"],
        env=environment(),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(follower)
    assert shell.wait(timeout=120) == 0
    shown = os.read(leader, 65536).decode()
    holder = locked_by(folder.driver_lock)
    assert holder is not None
    assert f"process {holder['pid']} drives" in shown
    os.close(leader)  # the terminal hangs up
    os.kill(holder["pid"], 0)
    assert os.getsid(holder["pid"]) == holder["pid"]
    os.kill(holder["pid"], signal.SIGSTOP)  # it would be done before a slow machine has started another
    second = command(*sweep_arguments(tmp_path, *SLOW), "--detach")
    os.kill(holder["pid"], signal.SIGCONT)
    assert (second.returncode, f"is being driven by process {holder['pid']}" in second.stderr) == (5, True)
    wait_until(lambda: locked_by(folder.driver_lock) is None, "the end of the driver", progress=files(folder.path))
    assert set(outcomes(folder).values()) == {DONE}
    assert "trials" in (folder.path / "driver.log").read_text()


def test_ending_the_driver_alone_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quickstart")
    assert command(*sweep_arguments(tmp_path, *SLOW), "--detach").returncode == 0
    holder = locked_by(folder.driver_lock)
    assert holder is not None
    os.kill(holder["pid"], signal.SIGTERM)
    wait_until(lambda: locked_by(folder.driver_lock) is None, "the end of the driver", progress=files(folder.path))
    assert "interrupted; finished trials are kept" in _soon(folder.path / "driver.log", "interrupted")
    driver = start(*sweep_arguments(tmp_path, *SLOW))
    driver.communicate(timeout=200)
    assert set(outcomes(folder).values()) == {DONE}


def _soon(path: Path, text: str) -> str:
    wait_until(lambda: text in path.read_text(), f"{text!r} in {path}", progress=files(path.parent))
    return path.read_text()


@pytest.mark.parametrize(("override", "message"), [("run.batch=0", "run.batch must be"), ("grid.foo=1", "foo")])
def test_bad_input_is_said_in_the_foreground_and_nothing_is_left(tmp_path: Path, override: str, message: str) -> None:
    done = command(*sweep_arguments(tmp_path, override), "--detach")
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_that_refuses_the_first_job_is_said_in_the_foreground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun", "sacct", "sacctmgr", "scontrol", "squeue", "scancel"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        said = "echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1" if name == "sbatch" else "exit 0"
        program.write_text(f"#!/bin/sh\n{said}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    arguments = sweep_arguments(tmp_path / "runs", "launcher=slurm", "launcher.partition=gpuu", "tracker=none")
    done = command(*arguments, "--detach")
    assert done.returncode == 5
    assert "sbatch refused a job (sbatch: error: invalid partition specified: gpuu)" in done.stderr


def test_a_strange_folder_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "thesis.tex").write_text("")
    done = command(*sweep_arguments(tmp_path), "--detach")
    assert (done.returncode, "is not a run folder" in done.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "quickstart").iterdir()] == ["thesis.tex"]
