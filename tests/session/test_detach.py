"""A driver in the background survives its terminal; errors are reported before."""

import fcntl
import grp
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hptransfer.core.io import write_json
from hptransfer.core.locks import lock, locked_by
from hptransfer.core.records import DONE
from hptransfer.core.run_folder import RunFolder
from hptransfer.session import detach as detach_module
from hptransfer.session.detach import detach
from tests.support.helpers import ONE_SCALE, command, environment, outcomes, sweep_arguments, terminal, workers
from tests.support.waiting import Process, alive, kill, processor_time, wait_until

SLOW = ("tracker=none", "grid.tokens.values=[49152]", "space.lr.count=4", "launcher.workers=1", *ONE_SCALE)
SHORTER = (*SLOW, "grid.tokens.values=[24576]", "space.lr.count=3")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """The sweep's folder; a driver that still runs after the test is killed with its workers."""
    folder = RunFolder(tmp_path / "quickstart")
    yield folder
    if holder := locked_by(folder.driver_lock):
        kill([holder["pid"], *workers(folder.path)])


def driver_of(folder: RunFolder) -> int:
    holder = locked_by(folder.driver_lock)
    assert holder is not None
    return int(holder["pid"])


def wait_for_end(pid: int) -> None:
    """The driver is not a child of this process."""
    wait_until(lambda: not alive(pid), "the end of the driver", progress=lambda: processor_time(pid))


@pytest.mark.slow
def test_it_lives_on_when_its_terminal_hangs_up(tmp_path: Path, folder: RunFolder) -> None:
    with terminal() as (screen, programs):
        shell = Process(
            [sys.executable, "-m", "hptransfer.cli.main", *sweep_arguments(tmp_path, *SHORTER), "--detach"],
            env=environment(),
            stdin=programs,
            stdout=programs,
            stderr=programs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        programs.close()
        with shell:
            assert shell.wait() == 0
        shown = screen.read(65536).decode()
        driver = driver_of(folder)
        assert f"process {driver} drives" in shown
        # Here the terminal hangs up.
    os.kill(driver, 0)
    assert os.getsid(driver) == driver
    os.kill(driver, signal.SIGSTOP)  # it would be done before a slow machine has started another
    second = command(*sweep_arguments(tmp_path, *SHORTER), "--detach")
    os.kill(driver, signal.SIGCONT)
    assert (second.returncode, f"is being driven by process {driver}" in second.stderr) == (5, True)
    wait_for_end(driver)
    assert set(outcomes(folder).values()) == {DONE}
    assert "trials" in (folder.path / "driver.log").read_text()


@pytest.mark.slow
def test_ending_the_driver_alone_leaves_a_run_that_goes_on(tmp_path: Path, folder: RunFolder) -> None:
    assert command(*sweep_arguments(tmp_path, *SLOW), "--detach").returncode == 0
    driver = driver_of(folder)
    os.kill(driver, signal.SIGTERM)
    wait_for_end(driver)
    assert "interrupted; finished trials are kept" in (folder.path / "driver.log").read_text()
    done = command(*sweep_arguments(tmp_path, *SLOW))
    assert set(outcomes(folder).values()) == {DONE}, done.stderr


@pytest.mark.parametrize(("override", "message"), [("run.batch=0", "run.batch must be"), ("grid.foo=1", "foo")])
def test_bad_input_is_said_in_the_foreground_and_nothing_is_left(tmp_path: Path, override: str, message: str) -> None:
    done = command(*sweep_arguments(tmp_path, override), "--detach")
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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


def test_a_file_server_whose_clock_is_behind_does_not_keep_the_user_waiting(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process plays the driver, which has written its state by a clock of an hour ago."""

    class Driver:
        pid = os.getpid()

        def __init__(self, *_: Any, **__: Any) -> None:
            write_json(folder.path / "driver.json", {"held": {}, "delayed": {}, "blocked": None})
            os.utime(folder.path / "driver.json", (time.time() - 3600,) * 2)

        def poll(self) -> None:
            return None

    def waits(seconds: float) -> None:
        raise AssertionError("it waits for what was written")

    monkeypatch.setattr(detach_module, "subprocess", SimpleNamespace(Popen=Driver, DEVNULL=None, STDOUT=None))
    monkeypatch.setattr(detach_module.time, "sleep", waits)
    folder.create()
    with lock(folder.driver_lock):
        assert detach_module.detach(["sweep"], folder) == (os.getpid(), None, "")


def test_a_shared_folder_stays_shared_while_its_driver_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    folder = RunFolder(tmp_path / "shared")
    folder.create(group)
    modes = []

    class Ended:
        pid = 0

        def __init__(self, *words: object, **settings: object) -> None:
            modes.append(oct(folder.path.stat().st_mode)[-4:])

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("hptransfer.session.detach.subprocess.Popen", Ended)
    detach(["sweep"], folder, group)
    assert modes == ["2770"]


@pytest.mark.parametrize("options", [["--next", "0"], ["--next", "-1", "--detach"], ["--next", "2"]])
def test_points_that_cannot_be_ranked_leave_no_folder(tmp_path: Path, options: list[str]) -> None:
    done = command(*sweep_arguments(tmp_path / "runs", *SHORTER), *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--next" in done.stderr
    assert not (tmp_path / "runs").exists()
