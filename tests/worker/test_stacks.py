"""How many trials train as one: what is chosen from measured steps, what is remembered, and what a job then does."""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hptransfer.core.errors import Interrupted
from hptransfer.core.io import read_json
from hptransfer.core.records import PREEMPTED, with_path
from hptransfer.core.run_folder import RunFolder
from hptransfer.training import loop
from hptransfer.training.config import run_from_json
from hptransfer.worker import stack_sizes as stack_sizes_module
from hptransfer.worker.job import run_job
from hptransfer.worker.runners.builtin import BuiltinRunner
from hptransfer.worker.stack_sizes import (
    CALIBRATION_SHARE,
    CALIBRATION_STEPS,
    MIN_GAIN,
    StackTimings,
    calibrate,
    calibration_steps,
    split_stacks,
    stack_sizes,
)
from tests.support.helpers import ONE_SCALE, ROOT, environment, tiny
from tests.support.jobs import After
from tests.support.slow import slow_except
from tests.support.stacked import LONG, Clock, go_on, of_one_scale, stacks, stepping, trained_with, write_job
from tests.support.views import sweep
from tests.support.waiting import Process

# --- the choice ---


@pytest.mark.parametrize(
    ("shares", "best"),
    [
        ((5.4, 4.3, 3.6, 3.3), 8),
        ((9.6, 8.4, 7.7, 7.75), 4),
        ((23.3, 22.9, 22.6), 1),  # less than what two measurements of one thing may differ by
        ((23.3, 22.7, 21.4), 4),  # where two together gain what each did not
        ((23.3, 22.0, 21.3), 4),  # of two that gain on none, the better, though it gains little on the other
        ((23.3, 22.0, 21.8), 2),
        ((70.0, 73.0), 1),
        ((70.0, 65.0, 80.0), 2),
        ((5.0,), 1),
        ((1.0, 1.1, 0.5), 4),
    ],
)
def test_the_stack_with_the_most_steps_a_second_is_chosen(shares: tuple[float, ...], best: int) -> None:
    assert StackTimings(stepping(*shares)).best_size() == best


GAINS = {32: (5.39, 4.28, 3.58, 3.31), 64: (9.63, 8.39, 7.71, 7.74), 256: (69.92, 73.16, 75.2, 76.83)}
"""A trial's share in ms by width, as benchmarks/throughput.py printed it once."""


@pytest.mark.parametrize(("width", "seed"), [(width, seed) for width in GAINS for seed in range(50)])
def test_noise_chooses_nothing_that_is_slower(width: int, seed: int) -> None:
    noise = random.Random(seed)
    seen = calibrate(8, StackTimings(), lambda size: stepping(*GAINS[width])[size] * noise.uniform(1.0, 1.04))
    chosen = GAINS[width][seen.best_size().bit_length() - 1]
    assert chosen <= GAINS[width][0]
    assert (seen.best_size() > 1) == (width <= 64)


@pytest.mark.parametrize("seed", range(50))
def test_where_stacks_gain_nothing_noise_chooses_none(seed: int) -> None:
    noise = random.Random(seed)
    assert calibrate(16, StackTimings(), lambda size: size * noise.uniform(1.0, 1 + MIN_GAIN)).best_size() == 1


def test_the_search_ends_where_a_larger_stack_is_slower() -> None:
    tried = []

    def measure(size: int) -> float:
        tried.append(size)
        return stepping(4, 3, 2, 2.2, 1)[size]

    found = calibrate(16, StackTimings(), measure)
    assert (tried, found.best_size()) == ([1, 2, 4, 8], 4)
    assert found.is_sufficient(16)


def test_what_memory_does_not_hold_ends_the_search_too() -> None:
    def measure(size: int) -> float:
        if size > 4:
            raise MemoryError("no room")
        return 1.0

    found = calibrate(16, StackTimings(), measure)
    assert (found.best_size(), found.most) == (4, 4)
    assert found.is_sufficient(64)
    assert calibrate(16, StackTimings(most=3), lambda size: 1.0).seconds.keys() == {1, 2}


def test_a_larger_job_asks_for_more_than_a_smaller_one_left_and_no_other_does() -> None:
    small = StackTimings(stepping(4, 3, 2))
    assert [small.is_sufficient(trials) for trials in (1, 3, 4, 5)] == [True, True, True, False]
    assert not StackTimings().is_sufficient(2)
    assert StackTimings().is_sufficient(1)
    assert StackTimings(most=1).is_sufficient(16)


@pytest.mark.parametrize(
    ("trials", "size", "stacks"),
    [(7, 4, [3, 4]), (7, 16, [7]), (7, 1, [1] * 7), (5, 2, [1, 2, 2]), (64, 16, [16] * 4), (3, 2, [1, 2]), (1, 1, [1])],
)
def test_a_job_is_split_evenly_and_in_order(trials: int, size: int, stacks: list[int]) -> None:
    ids = [str(number) for number in range(trials)]
    found = split_stacks(ids, size)
    assert [len(stack) for stack in found] == stacks
    assert [one for stack in found for one in stack] == ids


def test_sizes_are_powers_of_two_up_to_the_first_that_holds_the_job() -> None:
    assert [stack_sizes(trials) for trials in (1, 2, 3, 4, 5)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4], [1, 2, 4, 8]]


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("trials", [2, 3, 4, 7, 16, 64])
@pytest.mark.parametrize("steps", [16, 100, 256, 1000, 20_000])
def test_a_calibration_takes_its_share_of_the_job_or_is_left_out(steps: int, trials: int, gpu: bool) -> None:
    each = calibration_steps(steps, trials, gpu=gpu)
    trained, tried = (steps, len(stack_sizes(trials))) if gpu else (steps * trials, sum(stack_sizes(trials)))
    assert each == 0 or stack_sizes_module.MIN_CALIBRATION_STEPS <= each <= CALIBRATION_STEPS
    assert (each and each + stack_sizes_module.BUILD_STEPS) * tried <= CALIBRATION_SHARE * trained
    assert (each > 0) == (
        CALIBRATION_SHARE * trained
        >= tried * (stack_sizes_module.MIN_CALIBRATION_STEPS + stack_sizes_module.BUILD_STEPS)
    )


def test_the_shortest_job_that_is_measured_is_the_one_on_the_page() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    assert "with four trials on a CPU, below 210 steps" in page
    assert f"{stack_sizes_module.MIN_CALIBRATION_STEPS - 1} to {CALIBRATION_STEPS - 1} timed steps of each size" in page
    assert f"gains more than {MIN_GAIN:.0%} over trials alone" in page
    assert f"gains {stack_sizes_module.MIN_GAIN_ON_STACK:.0%} more" in page
    assert f"At most {CALIBRATION_SHARE:.0%} of the job" in page
    assert (calibration_steps(209, 4, gpu=False), calibration_steps(210, 4, gpu=False)) == (
        0,
        stack_sizes_module.MIN_CALIBRATION_STEPS,
    )


# --- the file ---


def test_a_shape_is_measured_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, stepping(4, 3, 2))
    assert BuiltinRunner().stack_size(of_one_scale(tmp_path, *LONG), go_on) == 4
    assert clock.measured == [1, 2, 4]
    assert len(list(own_cache.iterdir())) == 1
    other_rates = of_one_scale(tmp_path, *LONG, "space.lr.low=0.001", "run.optimizer.weight_decay=0.3", count=3)
    assert BuiltinRunner().stack_size(other_rates, go_on) == 3
    shorter = of_one_scale(tmp_path, *ONE_SCALE)
    assert BuiltinRunner().stack_size(shorter, go_on) == 4
    assert clock.measured == [1, 2, 4]


@pytest.mark.parametrize(
    "other",
    slow_except(
        ["run.batch=8", "run.sequence=32", "run.model.mlp_ratio=2", "run/optimizer=lion", "run.parameterization=umup"],
        "run.batch=8",
        "run/optimizer=lion",
    ),
)
def test_another_shape_is_measured_by_itself(
    other: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, stepping(4, 3, 2))
    tokens = ("grid.tokens.values=[262144]", *ONE_SCALE)
    for overrides in (tokens, (*tokens, other)):
        assert BuiltinRunner().stack_size(of_one_scale(tmp_path, *overrides), go_on) == 4
    assert clock.measured == [1, 2, 4] * 2


def test_other_threads_are_measured_by_themselves(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = of_one_scale(tmp_path, *LONG)
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        Clock(monkeypatch, stepping(4, 3, 2) if threads == 1 else stepping(4, 5))
        assert BuiltinRunner().stack_size(trials, go_on) == (4 if threads == 1 else 1)


def test_a_job_too_short_to_measure_takes_the_usual_stack(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, stepping(4, 5))
    assert BuiltinRunner().stack_size(of_one_scale(tmp_path, *ONE_SCALE), go_on) == 4
    assert (clock.measured, own_cache.exists()) == ([], False)
    assert BuiltinRunner().stack_size(of_one_scale(tmp_path, *LONG), go_on) == 1
    assert BuiltinRunner().stack_size(of_one_scale(tmp_path, *ONE_SCALE), go_on) == 1  # what the longer one found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '{"schema": 1, "seconds": {"1": 1.0, "2": 1.0, "4": 1.0}}',
        '{"schema": 99, "seconds": {"1": 1.0, "2": 1.0, "4": 1.0}, "most": null}',
        '{"schema": 1, "seconds": {"1": 1.0, "4": 1.0}, "most": null}',
        '{"schema": 1, "seconds": {"1": -1.0}, "most": null}',
        '{"schema": 1, "seconds": {"1": NaN}, "most": null}',
        '{"schema": 1, "seconds": {"one": 1.0}, "most": null}',
        '{"schema": 1, "seconds": [1.0], "most": null}',
        '{"schema": 1, "seconds": {"0": 1.0}, "most": null}',
        '{"schema": 1, "seconds": {}, "most": 0}',
        '{"schema": 1, "seconds": {}, "most": "4"}',
    ],
)
def test_a_damaged_file_is_measured_again(
    text: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, clock = of_one_scale(tmp_path, *LONG), Clock(monkeypatch, stepping(4, 3, 2))
    BuiltinRunner().stack_size(trials, go_on)
    (path,) = own_cache.iterdir()
    path.write_text(text)
    assert BuiltinRunner().stack_size(trials, go_on) == 4
    assert clock.measured == [1, 2, 4] * 2
    assert BuiltinRunner().stack_size(trials, go_on) == 4
    assert clock.measured == [1, 2, 4] * 2


def test_a_home_that_cannot_be_written_is_measured_without(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, clock = of_one_scale(tmp_path, *LONG), Clock(monkeypatch, stepping(4, 3, 2))
    (tmp_path / "cache").write_text("no folder")
    assert BuiltinRunner().stack_size(trials, go_on) == 4

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "cache").unlink()
    monkeypatch.setattr(stack_sizes_module, "write_json", full)
    assert BuiltinRunner().stack_size(trials, go_on) == 4

    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which counts for nothing
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert BuiltinRunner().stack_size(trials, go_on) == 4
    assert clock.measured == [1, 2, 4] * 3
    assert not Path("relative").exists()


WRITER = """
import sys
from hptransfer.worker.stack_sizes import StackTimings, read_timings, write_timings
for number in range(1, 200):
    write_timings({"device": "x"}, StackTimings({1: 1.0 * number, 2: 1.5 * number}))
    assert set(read_timings({"device": "x"}).seconds) == {1, 2}
"""


def test_two_writers_leave_a_whole_file_at_every_moment(tmp_path: Path, own_cache: Path) -> None:
    one, other = (Process([sys.executable, "-c", WRITER], env=environment()) for _ in range(2))
    with one, other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert [path.name for path in own_cache.iterdir()] == [f"{stack_sizes_module.digest({'device': 'x'})}.json"]


# --- the measurement ---


def test_a_calibration_stops_when_its_job_has_to(tmp_path: Path, own_cache: Path) -> None:
    causes = iter([None, None, PREEMPTED])
    with pytest.raises(Interrupted) as interrupted:
        BuiltinRunner().stack_size(of_one_scale(tmp_path, *LONG), lambda: next(causes))
    assert interrupted.value.cause == PREEMPTED
    assert not own_cache.exists()


def test_real_steps_are_measured_and_the_question_is_asked_between_them(tmp_path: Path) -> None:
    asked: list[int] = []
    run = run_from_json(of_one_scale(tmp_path, *ONE_SCALE)[0].run)
    assert 0 < loop.measure_step(run, trials=2, steps=4, between=lambda: asked.append(1)) < 10
    assert len(asked) == 4


# --- jobs ---


def test_a_job_is_split_as_measured_and_its_next_attempt_keeps_that(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, stepping(4, 3, 3))
    folder, trials = RunFolder(tmp_path / "run"), of_one_scale(tmp_path, *LONG, count=3)
    write_job(folder, "job", trials)
    with pytest.raises(Interrupted):
        run_job(folder, "job", stop=After(3))
    assert (stacks(folder, "job"), clock.measured) == ([1, 2], [1, 2, 4])
    for path in own_cache.iterdir():
        path.unlink()
    clock.seconds = stepping(4, 5)
    run_job(folder, "job")
    assert clock.measured == [1, 2, 4]
    assert stacks(folder, "job") == [1, 2]
    assert trained_with(folder) == [1, 2, 2]


@pytest.mark.slow
def test_where_stacks_do_not_pay_every_trial_trains_alone(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, stepping(4, 4.3, 1))
    folder = RunFolder(tmp_path / "run")
    write_job(folder, "job", of_one_scale(tmp_path, *LONG, count=3))
    run_job(folder, "job")
    assert (clock.measured, stacks(folder, "job"), trained_with(folder)) == ([1, 2], [1, 1, 1], [1, 1, 1])


@pytest.mark.parametrize(
    ("path", "values", "split"),
    [
        ("run.optimizer.weight_decay", (0.0, 0.1, 0.2), [3]),
        ("run.schedule.warmup", (0.1, 0.3, 0.6), [3]),
        ("run.diverged_above", (1.5, 2.0, 3.0), [1, 1, 1]),
        ("run.diverged_above", (1.5, 1.5, 3.0), [1, 2]),
    ],
)
def test_trials_that_differ_in_what_a_stack_has_for_all_train_apart(
    path: str, values: tuple[float, ...], split: list[int], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    one = of_one_scale(tmp_path, *ONE_SCALE, count=3)[0]
    trials = [
        replace(one, id=f"trial{n}", run=with_path({"run": one.run}, path, v)["run"]) for n, v in enumerate(values)
    ]
    write_job(folder, "job", trials)
    run_job(folder, "job", stack=3)
    assert sorted(stacks(folder, "job")) == split
    losses = {n: read_json(folder.outcome_path(f"trial{n}"))["loss"] for n in range(3)}
    alone = RunFolder(tmp_path / "alone")
    write_job(alone, "job", trials)
    run_job(alone, "job", stack=1)
    for number, loss in losses.items():
        assert loss == pytest.approx(read_json(alone.outcome_path(f"trial{number}"))["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_setting_that_is_given_measures_nothing(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, {})
    folder = RunFolder(tmp_path / "run")
    write_job(folder, "job", of_one_scale(tmp_path, *LONG, count=3))
    run_job(folder, "job", stack=2)
    assert (clock.measured, stacks(folder, "job"), own_cache.exists()) == ([], [1, 2], False)


def test_what_breaks_a_measurement_is_said_by_the_trials(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> float:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(loop, "measure_step", broken)
    folder = RunFolder(tmp_path / "run")
    write_job(folder, "job", of_one_scale(tmp_path, *LONG, count=3))
    run_job(folder, "job")
    assert (stacks(folder, "job"), trained_with(folder)) == ([3], [3, 3, 3])


@pytest.mark.slow
def test_two_workers_measure_at_once_and_both_train(tmp_path: Path, own_cache: Path) -> None:
    """No clock is set here: whatever they choose, it is a split, and what they leave is a measurement."""
    folder = RunFolder(tmp_path / "run")
    names = ["first", "second"]
    for seed, name in enumerate(names):
        write_job(folder, name, of_one_scale(tmp_path, *LONG, count=3, seed=seed))
    words = [sys.executable, "-m", "hptransfer.worker", str(folder.path)]
    more = {"OMP_NUM_THREADS": "1", "HPTRANSFER_STACK": "0"}
    one, other = (Process([*words, name, "1"], env={**environment(), **more}) for name in names)
    with one, other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert len(trained_with(folder)) == 6
    assert {sum(stacks(folder, name)) for name in names} == {3}
    (path,) = own_cache.iterdir()
    found = read_json(path)
    assert found["about"]["threads"] == 1
    assert {"1", "2"} <= found["seconds"].keys()


@pytest.mark.parametrize("launcher", slow_except(["inline", "local"], "inline"))
def test_the_launchers_tell_their_workers(launcher: str, tmp_path: Path) -> None:
    config = tiny(tmp_path, f"launcher={launcher}", "launcher.stack=1", "tracker=none", *ONE_SCALE, inline=False)
    sweep(config)
    assert trained_with(config.folder) == [1, 1, 1]
