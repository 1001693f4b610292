"""What memory does not hold: a stack that is not tried, one that is halved, and a worker that was ended for it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hptransfer.core.attempts import Attempt, History, write_history
from hptransfer.core.errors import Interrupted
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import KILLED, OUT_OF_MEMORY
from hptransfer.core.run_folder import RunFolder
from hptransfer.training import device, loop
from hptransfer.worker.job import run_job
from hptransfer.worker.runners.builtin import BuiltinRunner
from hptransfer.worker.stack_sizes import StackTimings, calibrate
from tests.support.helpers import ONE_SCALE
from tests.support.jobs import After
from tests.support.slow import slow_except
from tests.support.stacked import LONG, Clock, go_on, of_one_scale, stacks, stepping, trained_with, write_job


def test_a_stack_that_would_not_fit_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB and 30 a trial, in a room of 300."""
    taken: list[int] = []
    monkeypatch.setattr(device, "_room", lambda _: 300.0)
    monkeypatch.setattr(device, "_forget_peak", lambda _: None)
    monkeypatch.setattr(device, "_peak", lambda _: 100.0 + 30 * taken[-1])
    memory = device.Memory("cpu")

    def measure(size: int) -> float:
        memory.expect(size)
        taken.append(size)
        memory.note(size)
        return 1.0

    found = calibrate(16, StackTimings(), measure)
    assert (taken, found.most) == ([1, 2, 4], 4)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


def test_torch_says_that_a_cpus_memory_did_not_do() -> None:
    reason = device.out_of_memory(lambda: torch.empty(2**50))
    assert reason is not None
    assert device.CPU_OOM_TEXT in reason
    assert device.out_of_memory(lambda: torch.empty(2)) is None
    with pytest.raises(RuntimeError, match="must match"):
        device.out_of_memory(lambda: torch.ones(2) + torch.ones(3))


@pytest.mark.parametrize("full", FULL)
def test_a_device_that_runs_out_bounds_the_stack(
    full: RuntimeError, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def limited(run: Any, *, trials: int, **_: Any) -> float:
        tried.append(trials)
        if trials > 2:
            raise full
        return 1.0

    monkeypatch.setattr(loop, "measure_step", limited)
    trials = of_one_scale(tmp_path, *LONG)
    assert [BuiltinRunner().stack_size(trials, go_on) for _ in range(2)] == [2, 2]
    assert tried == [1, 2, 4]


def test_the_peak_is_that_of_a_stack(tmp_path: Path) -> None:
    memory = device.Memory("cpu")
    for size, megabytes in ((1, 1), (2, 64), (4, 1)):
        memory.expect(size)
        assert torch.ones(megabytes * 2**18).sum() > 0
        memory.note(size)
    peaks = memory._peaks
    assert peaks[2] - peaks[1] > 32 * 2**20
    assert peaks[2] - peaks[4] > 32 * 2**20


def test_a_control_group_bounds_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = device._available()
    assert free > 2**20
    monkeypatch.setattr(device, "CGROUP_ROOT", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert device._available() > 2**20
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nactive_file 1000\ninactive_file 200\n")
    assert device._available() == 301_200


@pytest.mark.parametrize("full", slow_except(FULL, FULL[0]))
def test_memory_that_does_not_hold_a_stack_halves_it_and_the_next_job_knows(
    full: RuntimeError, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, tried = loop.train, []

    def limited(runs: Any, *rest: Any, **more: Any) -> Any:
        tried.append(len(runs))
        if len(runs) > 2:
            raise full
        return train(runs, *rest, **more)

    monkeypatch.setattr(loop, "train", limited)
    folder = RunFolder(tmp_path / "run")
    write_job(folder, "first", of_one_scale(tmp_path, *ONE_SCALE, count=7))
    run_job(folder, "first")
    assert (tried, stacks(folder, "first")) == ([7, 3, 1, 2, 4, 2, 2], [1, 2, 2, 2])
    tried.clear()
    write_job(folder, "second", of_one_scale(tmp_path, *ONE_SCALE, count=7, seed=1))
    run_job(folder, "second")
    assert (tried, stacks(folder, "second")) == ([1, 2, 2, 2], [1, 2, 2, 2])
    assert trained_with(folder) == [1, 1, *[2] * 12]
    tried.clear()
    clock = Clock(monkeypatch, stepping(4, 3, 2, 1))
    write_job(folder, "long", of_one_scale(tmp_path, *LONG, count=4))
    run_job(folder, "long")
    assert (clock.measured, tried) == ([1, 2], [2, 2])


@pytest.mark.parametrize(("cause", "split"), [(OUT_OF_MEMORY, [1, 1, 1]), (KILLED, [3])])
def test_a_worker_that_was_ended_as_memory_was_full_leaves_its_trials_to_train_alone(
    cause: str, split: list[int], tmp_path: Path, own_cache: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    trials = of_one_scale(tmp_path, *ONE_SCALE, count=3)
    write_job(folder, "job", trials)
    with pytest.raises(Interrupted):
        run_job(folder, "job", stack=3, stop=After(3))
    assert folder.checkpoint_path("job", 0).exists()
    ended = History().with_attempt(Attempt(time=0, cause=cause, job="job"))
    for trial in trials:
        write_history(folder, trial.id, ended)
    run_job(folder, "job")
    assert (stacks(folder, "job"), trained_with(folder)) == (split, sorted(n for n in split for _ in range(n)))
    assert own_cache.exists() == (cause == OUT_OF_MEMORY)  # where jobs of the shape find that three are too many
    log = [point["step"] for point in read_jsonl(folder.curve_path(trials[0].id))]
    assert log == sorted(set(log))
