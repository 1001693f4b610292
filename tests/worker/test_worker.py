"""A worker that is stopped, killed or superseded leaves a job that another attempt brings to the same end."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hptransfer.core.errors import Interrupted, Superseded
from hptransfer.core.io import append_jsonl, read_json, read_jsonl, write_json
from hptransfer.core.locks import lock
from hptransfer.core.records import (
    CODE_ERROR,
    DIVERGED,
    DONE,
    FAILED,
    OUT_OF_MEMORY,
    PREEMPTED,
    TIME_LIMIT,
    Trial,
)
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker import interruption as stop_module
from hptransfer.worker import job as worker
from hptransfer.worker.__main__ import run_one
from hptransfer.worker.interruption import FENCE_CHECK_S, StopCheck, process_deadline, requeue_job
from hptransfer.worker.runners.builtin import BuiltinRunner
from tests.support.helpers import environment, outcomes, tiny
from tests.support.jobs import (
    JOB,
    ONE_STACK,
    SLOW,
    TRIALS,
    After,
    checkpoints,
    log_of,
    points,
    results,
    run_job,
    start_worker,
    write_job,
)
from tests.support.slow import slow_except
from tests.support.views import assert_mlflow_agrees, sweep
from tests.support.waiting import Process, wait_until


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_job(tmp_path_factory.mktemp("undisturbed"))
    assert run_job(folder, JOB) is None
    assert sorted(outcomes(folder).values()) == [DIVERGED, DONE, DONE]
    assert not checkpoints(folder)
    return results(folder)


@pytest.fixture(scope="module")
def slow_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_job(tmp_path_factory.mktemp("slow_undisturbed"), *SLOW)
    work(folder)
    return results(folder)


def work(folder: RunFolder) -> None:
    """Let a worker bring the job to its end."""
    with start_worker(folder) as process:
        assert process.wait() == 0, log_of(folder)


def times_written(folder: RunFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.path.glob("trials/*/outcome.json")}


@pytest.mark.parametrize("steps", [1, 5, 15, 16])
def test_a_job_that_was_stopped_goes_on_to_the_same_curves(steps: int, tmp_path: Path, undisturbed: Any) -> None:
    """The trial that diverges leaves after its second point; the first question is asked before the stack starts."""
    folder = write_job(tmp_path)
    with pytest.raises(Interrupted):
        run_job(folder, JOB, stop=After(steps))
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint"]
    assert points(folder) == steps
    written = times_written(folder)
    assert run_job(folder, JOB) is None
    assert results(folder) == undisturbed
    assert times_written(folder).items() >= written.items()
    assert not checkpoints(folder)


def test_points_after_the_checkpoint_are_cut_and_those_of_finished_trials_left_alone(
    tmp_path: Path, undisturbed: Any
) -> None:
    folder = write_job(tmp_path)
    with pytest.raises(Interrupted):
        run_job(folder, JOB, stop=After(5))
    for trial in folder.read_trials():
        with folder.curve_path(trial.id).open("a") as curve:
            curve.write('{"step": 6, "tokens": 1536, "loss": 0.5, "time": 1.0}\n{"step": 7, "tok')
    finished = [trial.id for trial in folder.read_trials() if folder.read_outcome(trial.id)]
    before = {trial_id: folder.curve_path(trial_id).read_bytes() for trial_id in finished}
    run_job(folder, JOB)
    after = {trial_id: folder.curve_path(trial_id).read_bytes() for trial_id in finished}
    assert (len(finished), after) == (1, before)
    found = results(folder)
    assert [found[trial] for trial in found if trial not in finished] == [
        undisturbed[trial] for trial in undisturbed if trial not in finished
    ]


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_other_settings(path: Path) -> None:
    import torch

    found = torch.load(path, weights_only=True)
    torch.save({**found, "settings": "0" * 12}, path)


def of_another_version(path: Path) -> None:
    import torch

    found = torch.load(path, weights_only=True)
    torch.save({**found, "version": 0}, path)


@pytest.mark.parametrize("damage", [torn, flipped, of_other_settings, of_another_version])
def test_an_unusable_checkpoint_is_set_aside_and_the_stack_restarts(
    damage: Callable[[Path], None], tmp_path: Path, undisturbed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_job(tmp_path)
    with pytest.raises(Interrupted):
        run_job(folder, JOB, stop=After(5))
    damage(folder.checkpoint_path(JOB, 0))
    run_job(folder, JOB)
    assert "cannot be used" in capsys.readouterr().out
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint.set-aside-1"]
    assert results(folder) == undisturbed


def test_without_a_checkpoint_a_stack_trains_again_as_it_was_and_writes_nothing_twice(
    tmp_path: Path, undisturbed: Any
) -> None:
    folder = write_job(tmp_path)
    with pytest.raises(Interrupted):
        run_job(folder, JOB, stop=After(5))
    folder.checkpoint_path(JOB, 0).unlink()
    written = times_written(folder)
    assert len(written) == 1
    run_job(folder, JOB)
    assert results(folder) == undisturbed
    assert times_written(folder).items() >= written.items()


def test_the_recorded_split_is_kept(tmp_path: Path) -> None:
    folder = write_job(tmp_path)
    first, second, third = folder.read_job(JOB).trials
    split = [[third, first], [second]]
    write_json(folder.stacks_path(JOB), {"stacks": split})
    run_job(folder, JOB)
    assert read_json(folder.stacks_path(JOB))["stacks"] == split
    stacks = {trial_id: read_json(folder.outcome_path(trial_id))["stack"] for trial_id in (first, second, third)}
    assert stacks == {first: 2, second: 1, third: 2}


def test_a_stack_that_somebody_else_trains_is_left_alone(tmp_path: Path) -> None:
    folder = write_job(tmp_path)
    first, second, third = folder.read_job(JOB).trials
    write_json(folder.stacks_path(JOB), {"stacks": [[first, second], [third]]})
    with lock(folder.lease(second)):
        run_job(folder, JOB)
    assert {trial: state for trial, state in outcomes(folder).items() if state == "open"}.keys() == {first, second}


def memory_for(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds so many trials at once."""
    execute = BuiltinRunner.execute

    def limited(self: BuiltinRunner, trials: list[Trial], *rest: Any) -> None:
        if len(trials) > number:
            raise MemoryError("CUDA out of memory")
        execute(self, trials, *rest)

    monkeypatch.setattr(BuiltinRunner, "execute", limited)


def test_a_stack_that_memory_does_not_hold_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_for(2, monkeypatch)
    folder = write_job(tmp_path)
    first, second, third = folder.read_job(JOB).trials
    run_job(folder, JOB)
    assert read_json(folder.stacks_path(JOB))["stacks"] == [[first], [second, third]]
    assert sorted(outcomes(folder).values()) == [DIVERGED, DONE, DONE]


def test_a_trial_that_memory_does_not_hold_has_failed_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_for(0, monkeypatch)
    folder = write_job(tmp_path)
    run_job(folder, JOB)
    found = [folder.read_outcome(trial.id) for trial in folder.read_trials()]
    assert {(o.state, o.cause, o.error) for o in found if o} == {
        (FAILED, OUT_OF_MEMORY, "MemoryError: CUDA out of memory")
    }


def test_memory_that_torch_cannot_have_is_no_error_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import hptransfer.training.loop as loop

    def train(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(loop, "train", train)
    folder = write_job(tmp_path)
    run_job(folder, JOB)
    assert {read_json(path)["cause"] for path in folder.path.glob("trials/*/outcome.json")} == {OUT_OF_MEMORY}
    assert len(read_json(folder.stacks_path(JOB))["stacks"]) == 3


def test_a_trial_that_memory_does_not_hold_alone_is_trained_again_with_checkpointing(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that runs out after some steps, at any stack without checkpointing, and has nothing left to halve."""
    import torch

    import hptransfer.training.loop as loop

    step, tried = loop.Training.step, []

    def limited(self: loop.Training, *batch: Any) -> Any:
        tried.append((len(self.groups), self.run.activation_checkpointing, self.steps))
        if self.steps == 5 and not self.run.activation_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(self, *batch)

    monkeypatch.setattr(loop.Training, "step", limited)
    folder = write_job(tmp_path)
    run_job(folder, JOB)
    assert sorted(outcomes(folder).values()) == [DIVERGED, DONE, DONE]
    assert {stack for stack, checkpointing, _ in tried if checkpointing} == {1}
    assert [[point["step"] for point in curve] for curve, _ in results(folder).values()] == [
        [point["step"] for point in curve] for curve, _ in undisturbed.values()
    ]
    for (_, outcome), (_, whole) in zip(results(folder).values(), undisturbed.values(), strict=True):
        assert outcome["state"] == whole["state"]
        if whole["state"] == DONE:
            assert outcome["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_the_end_of_its_time_stops_a_worker_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that each point of the curve moves by a second; the wall clock is set back meanwhile."""
    folder = write_job(tmp_path, *SLOW)
    clock = time.time()
    wall, monotonic = (lambda: clock - 3600 * points(folder)), (lambda: float(points(folder)))
    monkeypatch.setattr(stop_module, "time", SimpleNamespace(time=wall, monotonic=monotonic))
    with pytest.raises(Interrupted) as interrupted:
        run_job(folder, JOB, stop=StopCheck(ends=clock + 10.0))
    assert interrupted.value.cause == TIME_LIMIT
    assert points(folder) == 9
    assert checkpoints(folder)


def test_a_clock_that_is_set_back_does_not_keep_a_worker_from_its_fence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_job(tmp_path)
    clock = itertools.count(1e9, -3600.0)
    monotonic = itertools.count(0.0, FENCE_CHECK_S)
    monkeypatch.setattr(stop_module, "time", SimpleNamespace(time=clock.__next__, monotonic=monotonic.__next__))
    stop = StopCheck()
    stop.enter_job(folder, JOB, 1)
    assert stop() is None
    write_json(folder.job_path(JOB), {**read_json(folder.job_path(JOB)), "attempt": 2})
    with pytest.raises(Superseded):
        stop()


def test_the_end_of_time_is_the_scripts_word_or_the_schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HPTRANSFER_DEADLINE", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert process_deadline() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", "2000000000")
    assert process_deadline() == 2e9
    monkeypatch.setenv("HPTRANSFER_DEADLINE", "1900000000")
    assert process_deadline() == 1.9e9


def test_a_few_minutes_apart_checkpoints_are_written_unasked(tmp_path: Path, undisturbed: Any) -> None:
    folder = write_job(tmp_path)
    seen: list[int] = []

    class Watch(StopCheck):
        def __call__(self) -> str | None:
            path = folder.checkpoint_path(JOB, 0)
            seen.append(path.stat().st_mtime_ns if path.exists() else 0)
            return super().__call__()

    run_job(folder, JOB, stop=Watch(), checkpoint_s=0.0)
    assert len(set(seen)) > 10
    assert results(folder) == undisturbed


# --- another attempt ---


def exit_code(folder: RunFolder, attempt: int) -> int:
    return run_one(folder, JOB, attempt, StopCheck(), 300.0, ONE_STACK)


def everything(folder: RunFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}


@pytest.mark.parametrize("attempt", [1, 3])
def test_an_attempt_that_is_not_the_jobs_touches_nothing(
    attempt: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_job(tmp_path)
    job = read_json(folder.job_path(JOB))
    write_json(folder.job_path(JOB), {**job, "attempt": 2})
    before = everything(folder)
    assert exit_code(folder, attempt) == 2
    assert f"attempt {attempt} of job {JOB} ends: its file names attempt 2" in capsys.readouterr().err
    assert everything(folder) == before
    assert exit_code(folder, 2) == 0


def test_an_attempt_that_is_superseded_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when its node was cut off for a while, and the scheduler gave it up."""
    monkeypatch.setattr(stop_module, "FENCE_CHECK_S", 0.0)
    folder = write_job(tmp_path)
    job = read_json(folder.job_path(JOB))

    class Supersede(After):
        def __call__(self) -> str | None:
            if self.left == 3:
                write_json(folder.job_path(JOB), {**job, "attempt": 2})
            return super().__call__()

    with pytest.raises(Superseded):
        run_job(folder, JOB, attempt=1, stop=Supersede(6), checkpoint_s=0.0)
    assert points(folder) == 3
    assert not [path for path in checkpoints(folder) if path.endswith(".new")]


def test_an_outcome_is_the_current_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_job(tmp_path)
    job = read_json(folder.job_path(JOB))
    execute = BuiltinRunner.execute

    def superseded(self: BuiltinRunner, *rest: Any) -> None:
        write_json(folder.job_path(JOB), {**job, "attempt": 2})
        execute(self, *rest)

    monkeypatch.setattr(BuiltinRunner, "execute", superseded)
    with pytest.raises(Superseded):
        run_job(folder, JOB, attempt=1)
    assert set(outcomes(folder).values()) == {"open"}


# --- exit codes ---


def test_the_exit_code_says_how_a_job_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code(write_job(tmp_path / "done"), 1) == 0
    folder = write_job(tmp_path / "held")
    monkeypatch.setattr(worker, "SUPERSEDED_LEASE_WAIT_S", 0.0)
    with lock(folder.lease(folder.read_job(JOB).trials[0])):
        assert exit_code(folder, 1) == 75
    assert exit_code(RunFolder(tmp_path / "nothing"), 1) == 2

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BuiltinRunner, "execute", full)
    assert exit_code(write_job(tmp_path / "full"), 1) == 5

    def broken(*_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(BuiltinRunner, "execute", broken)
    folder = write_job(tmp_path / "failed")
    assert exit_code(folder, 1) == 3
    assert {read_json(path)["cause"] for path in folder.path.glob("trials/*/outcome.json")} == {CODE_ERROR}


# --- processes ---


def stopped_in_the_middle(folder: RunFolder, number: int, **more: str) -> None:
    with start_worker(folder, **more) as process:
        wait_until(lambda: points(folder) >= 6, "training", process=process)
        process.send_signal(number)
        assert process.wait() == 75, log_of(folder)
    assert 6 <= points(folder) < 33
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint"]


@pytest.mark.parametrize("number", slow_except([signal.SIGINT, signal.SIGUSR2], signal.SIGUSR2))
def test_a_signal_stops_a_worker_at_its_next_step(number: signal.Signals, tmp_path: Path) -> None:
    stopped_in_the_middle(write_job(tmp_path, *SLOW), number)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_was_stopped_leaves_a_job_that_mlflow_shows_as_one(tmp_path: Path, slow_undisturbed: Any) -> None:
    folder = write_job(tmp_path, *SLOW)
    stopped_in_the_middle(folder, signal.SIGTERM)
    work(folder)
    assert "resumes after step" in log_of(folder)
    assert results(folder) == slow_undisturbed
    sweep(tiny(tmp_path, *TRIALS, *SLOW, "tracker=mlflow"))  # which has nothing left to train
    assert results(folder) == slow_undisturbed
    assert_mlflow_agrees(folder)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path, slow_undisturbed: Any) -> None:
    folder = write_job(tmp_path, *SLOW)
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, time, torch\n"
        "save, calls = torch.save, []\n"
        "def slow(values, file):\n"
        "    calls.append(values['state']['step'])\n"
        "    if len(calls) < 3: return save(values, file)\n"
        "    file.write(b'PK' * 1000), file.flush()\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'writing').write_text(str(calls[1]))\n"
        "    time.sleep(100)\n"
        "torch.save = slow\n"
    )
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    with start_worker(folder, HPTRANSFER_CHECKPOINT_S="0.2", PYTHONPATH=path) as process:
        wait_until((tmp_path / "writing").exists, "the third checkpoint", process=process)
        process.kill()
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint", f"{JOB}.0.checkpoint.new"]
    work(folder)
    assert f"resumes after step {(tmp_path / 'writing').read_text()}" in log_of(folder)
    assert results(folder) == slow_undisturbed
    assert not checkpoints(folder)


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(tmp_path: Path, slow_undisturbed: Any) -> None:
    choose = random.Random(0)
    folder = write_job(tmp_path, *SLOW)
    for _ in range(8):
        with start_worker(folder, HPTRANSFER_CHECKPOINT_S="0.05") as process:
            before, ended = points(folder), process.poll
            wait_until(lambda b=before, ended=ended: points(folder) > b or ended() is not None, "training")
            time.sleep(choose.uniform(0.0, 0.5))
            process.kill()
    work(folder)
    assert log_of(folder).count("resumes after step") > 3
    assert results(folder) == slow_undisturbed


def test_an_idle_worker_ends_at_once(tmp_path: Path) -> None:
    process = Process(
        [sys.executable, "-m", "hptransfer.worker", str(tmp_path)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        status = Path(f"/proc/{process.pid}/status")
        caught = lambda: int(status.read_text().partition("SigCgt:")[2].split()[0], 16)  # noqa: E731
        wait_until(lambda: caught() & (1 << (signal.SIGTERM - 1)), "the handler", process=process)
        process.terminate()
        assert process.wait() == 75


@pytest.mark.slow
def test_a_worker_that_serves_stops_with_a_checkpoint_too(tmp_path: Path) -> None:
    folder = write_job(tmp_path, *SLOW)
    process = Process(
        [sys.executable, "-m", "hptransfer.worker", str(folder.path)],
        env={**environment(), "HPTRANSFER_STACK": str(ONE_STACK)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdin.write(f"{JOB}\n")
        process.stdin.flush()
        wait_until(lambda: points(folder) >= 3, "training", process=process)
        process.terminate()
        assert process.wait() == 75
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint"]


# --- the scheduler ---


def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_requeue_is_of_one_task_and_not_of_its_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task of an array has the array's own id as its job id."""
    scontrol(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/asked')
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not requeue_job()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert requeue_job()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue_job()
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 12", "requeue 12_3"]


def test_where_a_requeue_is_refused_the_driver_is_left_to_submit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol(tmp_path, monkeypatch, "echo Requested operation is presently disabled >&2; exit 1")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert not requeue_job()
    assert "requeue of job 12: Requested operation is presently disabled" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not requeue_job()


@pytest.mark.parametrize(("cause", "asked"), [(TIME_LIMIT, True), (PREEMPTED, False)])
def test_only_a_job_that_is_warned_asks_for_a_requeue(
    cause: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM is also how a job is cancelled, which a requeue would undo."""
    scontrol(tmp_path, monkeypatch, f"touch {tmp_path}/asked")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    stop = StopCheck()
    stop.cause = cause
    assert run_one(write_job(tmp_path), JOB, 1, stop, 300.0) == 75
    assert (tmp_path / "asked").exists() == asked


def test_a_job_that_comes_no_farther_does_not_ask_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a script without checkpoints that takes longer than its time limit."""
    scontrol(tmp_path, monkeypatch, f"echo >> {tmp_path}/asked")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    folder = write_job(tmp_path)

    def ask() -> int:
        stop = StopCheck()
        stop.cause = TIME_LIMIT
        assert run_one(folder, JOB, 1, stop, 300.0) == 75
        return len((tmp_path / "asked").read_text())

    first, *_ = folder.read_job(JOB).trials
    assert [ask(), ask()] == [1, 1]
    append_jsonl(folder.curve_path(first), [{"step": 1, "tokens": 1, "loss": 3.0, "time": 0.0}])
    assert [ask(), ask()] == [2, 2]
    assert run_one(folder, JOB, 1, StopCheck(), 300.0) == 0
    assert not folder.reached_path(JOB).exists()


@pytest.mark.parametrize(("once", "code"), [(True, 7), (False, 75)])
def test_a_signal_after_the_one_job_changes_nothing(once: bool, code: int, tmp_path: Path) -> None:
    """Such as the SIGTERM of the requeue that it asked for; a worker that waits for further jobs ends by it."""
    program = f"""
import os, signal, sys
from hptransfer.worker.interruption import StopCheck
stop = StopCheck(once={once})
stop.listen()
stop.leave_job()
os.kill(os.getpid(), signal.SIGTERM)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (code, b"")


def test_a_curve_says_no_step_twice_when_a_job_is_stopped_again_and_again(tmp_path: Path, undisturbed: Any) -> None:
    folder = write_job(tmp_path)
    for _ in range(8):
        with pytest.raises(Interrupted):
            run_job(folder, JOB, stop=After(2))
    for trial in folder.read_trials():
        steps = [point["step"] for point in read_jsonl(folder.curve_path(trial.id))]
        assert steps == list(range(1, len(steps) + 1))
    run_job(folder, JOB)
    assert results(folder) == undisturbed
