"""Kill anything at any moment: the same command completes the sweep, every trial once, none lost."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hptransfer.core.io import read_json
from hptransfer.core.locks import locked_by
from hptransfer.core.records import DONE
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import ONE_SCALE, command, outcomes, start, sweep_arguments, workers
from tests.support.views import assert_mlflow_agrees, assert_optuna_agrees
from tests.support.waiting import alive, kill, processor_time, wait_until

pytestmark = pytest.mark.filterwarnings("ignore")

# Trials long enough to be hit in the middle.
SLOW = ("grid.tokens.values=[32768]", "launcher.max_attempts=100")
ALONE = ("tracker=none", *ONE_SCALE)
"""Where neither MLflow nor a second scale adds to the claim."""


def arguments(runs: Path, *overrides: str) -> list[str]:
    return [*sweep_arguments(runs, *SLOW, *overrides)]


def complete(runs: Path, *overrides: str) -> RunFolder:
    """Runs the command to its end and checks that everything agrees."""
    done = command(*arguments(runs, *overrides))
    folder = RunFolder(runs / "quickstart")
    assert set(outcomes(folder).values()) == {DONE}, done.stdout + done.stderr
    assert_optuna_agrees(folder)
    if "tracker=none" not in overrides:
        assert_mlflow_agrees(folder)
    assert_no_worker_left(folder)
    return folder


def assert_no_worker_left(folder: RunFolder) -> None:
    """A worker of a driver that was killed ends by itself, soon after its last job."""
    left = workers(folder.path)
    wait_until(lambda: not workers(folder.path), "the end of all workers", progress=lambda: processor_time(*left))


MOMENTS: dict[str, Callable[[RunFolder], object]] = {
    "a driver is there": lambda folder: locked_by(folder.driver_lock),
    "a trial has a worker": lambda folder: any(locked_by(path) for path in folder.path.glob("trials/*/lease")),
    "a curve grows": lambda folder: in_training(folder),
    "a trial has ended": lambda folder: [*folder.path.glob("trials/*/outcome.json")],
}


def chaos(runs: Path, moments: Sequence[str], seed: int, *overrides: str) -> None:
    """Kills the driver, a worker or all of them soon after these moments, then lets the command finish.

    An outcome that is there once is never written again: that would be a trial trained twice.
    """
    choose = random.Random(seed)
    folder = RunFolder(runs / "quickstart")
    written: dict[Path, int] = {}
    for moment in moments:
        with start(*arguments(runs, *overrides)) as driver:
            wait_until(lambda now=moment, ends=driver.poll: MOMENTS[now](folder) or ends() is not None, moment)
            time.sleep(choose.uniform(0.0, 1.0))
            victims = {
                "driver": [driver.pid],
                "worker": workers(folder.path)[:1],
                "all": [driver.pid, *workers(folder.path)],
            }
            kill(victims[choose.choice(sorted(victims))])
            time.sleep(choose.uniform(0.0, 1.0))
            driver.kill()
        written |= check_written_once(folder, written)
    check_written_once(complete(runs, *overrides), written)


def check_written_once(folder: RunFolder, written: dict[Path, int]) -> dict[Path, int]:
    now = {path: path.stat().st_mtime_ns for path in folder.path.glob("trials/*/outcome.json")}
    assert now.items() >= written.items()
    return now


def test_kills_soon_after_each_moment_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    chaos(tmp_path, ("a curve grows",), 0, *ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    chaos(tmp_path, random.Random(seed).choices(sorted(MOMENTS), k=12), seed)


@pytest.mark.slow
def test_a_worker_that_outlives_its_driver_keeps_its_trials(tmp_path: Path) -> None:
    """The new driver waits for it instead of training the same trials beside it."""
    folder = RunFolder(tmp_path / "quickstart")
    with start(*arguments(tmp_path, "launcher.workers=1", *ALONE)) as driver:
        wait_until(lambda: MOMENTS["a trial has a worker"](folder), "a trial in training", process=driver)
        driver.kill()
    held = {path.parent.name for path in folder.path.glob("trials/*/lease") if locked_by(path)}
    (worker,) = workers(folder.path)
    assert held
    complete(tmp_path, "launcher.workers=1", *ALONE)
    jobs = [read_json(path)["trials"] for path in folder.jobs.glob("*.json") if path.stem.isalnum()]
    assert {trial for trial in held if sum(trial in job for job in jobs) > 1} == set()
    wait_until(lambda: not alive(worker), "the end of the worker")  # it has let its trials go before it is gone


def in_training(folder: RunFolder) -> list[Path]:
    """Curves that have a point and no outcome beside them."""
    curves = folder.path.glob("trials/*/metrics.jsonl")
    return [path for path in curves if path.stat().st_size and not (path.parent / "outcome.json").exists()]


@pytest.mark.slow
def test_ctrl_c_ends_everything_at_once_and_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, longer = RunFolder(tmp_path / "quickstart"), ("grid.tokens.values=[131072]", *ALONE)
    with start(*arguments(tmp_path, *longer)) as driver:
        wait_until(lambda: in_training(folder), "a curve that grows", process=driver)
        driver.send_signal(signal.SIGINT)
        output, _ = driver.communicate()
    assert driver.returncode == 130
    assert "interrupted; finished trials are kept, and the same command resumes the run" in output
    assert workers(folder.path) == []
    complete(tmp_path, *longer)
    assert any("resumes after step" in path.read_text() for path in folder.jobs.glob("*.log"))


@pytest.mark.slow
def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "quickstart")
    with start(*arguments(tmp_path, *ALONE)) as first:
        wait_until(lambda: locked_by(folder.driver_lock), "a driver", process=first)
        first.send_signal(signal.SIGSTOP)  # it would be done before a slow machine has started another
        second = command(*arguments(tmp_path, *ALONE))
        first.send_signal(signal.SIGCONT)
        assert second.returncode == 5
        assert f"is being driven by process {first.pid} on" in second.stdout + second.stderr
        first.communicate()
    assert set(outcomes(folder).values()) == {DONE}
