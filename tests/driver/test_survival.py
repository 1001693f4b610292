"""Kill anything at any moment: the same command completes the sweep, every trial once, none lost."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hptransfer.core.io import read_json
from hptransfer.core.locks import locked_by
from hptransfer.core.records import DONE
from hptransfer.core.run_folder import RunFolder
from tests.driver.test_driver import assert_optuna_agrees
from tests.support.helpers import outcomes, start, sweep_arguments, workers
from tests.trackers.test_trackers import assert_mlflow_agrees

pytestmark = pytest.mark.filterwarnings("ignore")

# Trials of half a second or so: long enough to be hit in the middle.
SLOW = ("grid.tokens.values=[49152]", "space.lr.count=4", "launcher.max_attempts=100")


def arguments(runs: Path, *overrides: str) -> list[str]:
    return [*sweep_arguments(runs, *SLOW, *overrides)]


def wait_for(condition: object, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def complete(runs: Path, *overrides: str) -> RunFolder:
    """Runs the command to its end and checks that everything agrees."""
    driver = start(*arguments(runs, *overrides))
    output, _ = driver.communicate(timeout=300)
    folder = RunFolder(runs / "quickstart")
    assert set(outcomes(folder).values()) == {DONE}, output
    assert_optuna_agrees(folder)
    assert_mlflow_agrees(folder)
    assert workers(folder.path) == []
    return folder


def end(driver: subprocess.Popen[str]) -> None:
    driver.wait()
    assert driver.stdout is not None
    driver.stdout.close()


def chaos(runs: Path, rounds: int, seed: int) -> None:
    """Kills the driver, a worker or all of them at random moments, then lets the command finish.

    An outcome that is there once is never written again: that would be a trial trained twice.
    """
    choose = random.Random(seed)
    folder = RunFolder(runs / "quickstart")
    written: dict[Path, int] = {}
    for _ in range(rounds):
        driver = start(*arguments(runs))
        time.sleep(choose.uniform(0.5, 8.0))
        victims = {
            "driver": [driver.pid],
            "worker": workers(folder.path)[:1],
            "all": [driver.pid, *workers(folder.path)],
        }
        for pid in victims[choose.choice(sorted(victims))]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(choose.uniform(0.0, 1.0))
        driver.kill()
        end(driver)
        written |= check_written_once(folder, written)
    check_written_once(complete(runs), written)


def check_written_once(folder: RunFolder, written: dict[Path, int]) -> dict[Path, int]:
    now = {path: path.stat().st_mtime_ns for path in folder.path.glob("trials/*/outcome.json")}
    assert now.items() >= written.items()
    return now


def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    chaos(tmp_path, rounds=4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    chaos(tmp_path, rounds=12, seed=seed)


def test_a_worker_that_outlives_its_driver_keeps_its_trials(tmp_path: Path) -> None:
    """The new driver waits for it instead of training the same trials beside it."""
    folder = RunFolder(tmp_path / "quickstart")
    driver = start(*arguments(tmp_path, "launcher.workers=1"))
    wait_for(lambda: any(locked_by(path) for path in folder.path.glob("trials/*/lease")))
    driver.kill()
    end(driver)
    held = {path.parent.name for path in folder.path.glob("trials/*/lease") if locked_by(path)}
    (worker,) = workers(folder.path)
    assert held
    complete(tmp_path, "launcher.workers=1")
    jobs = [read_json(path)["trials"] for path in folder.jobs.glob("*.json") if path.stem.isalnum()]
    assert {trial for trial in held if sum(trial in job for job in jobs) > 1} == set()
    assert not Path(f"/proc/{worker}").exists()


def in_training(folder: RunFolder) -> list[Path]:
    """Curves that have a point and no outcome beside them."""
    curves = folder.path.glob("trials/*/metrics.jsonl")
    return [path for path in curves if path.stat().st_size and not (path.parent / "outcome.json").exists()]


def test_ctrl_c_ends_everything_at_once_and_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, longer = RunFolder(tmp_path / "quickstart"), "grid.tokens.values=[131072]"
    driver = start(*arguments(tmp_path, longer))
    wait_for(lambda: in_training(folder))
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert "interrupted; finished trials are kept, the same command goes on" in output
    assert workers(folder.path) == []
    complete(tmp_path, longer)
    assert any("goes on after step" in path.read_text() for path in folder.jobs.glob("*.log"))


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quickstart")
    first = start(*arguments(tmp_path, "seeds=4"))
    wait_for(lambda: locked_by(folder.driver_lock))
    second = start(*arguments(tmp_path, "seeds=4"))
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 5
    assert f"is being driven by process {first.pid} on" in output
    first.communicate(timeout=300)
    assert set(outcomes(folder).values()) == {DONE}
