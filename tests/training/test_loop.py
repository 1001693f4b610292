"""Stacks: trials that leave, trials that repeat, and curves."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from hptransfer.training.loop import Training, means, train
from hptransfer.training.stack import Stack
from tests.support.settings import small


def test_the_same_trial_twice_is_the_same_to_the_bit() -> None:
    run = small()
    data = run.data.load()
    assert train([run], [0], data) == train([run], [0], data)


def test_another_seed_is_another_trial() -> None:
    run = small()
    first, second = train([run, run], [0, 1], run.data.load())
    assert first.loss != second.loss


def test_a_trial_that_diverges_leaves_and_the_others_go_on() -> None:
    good, bad = small(lr=2.0**-6), small(lr=1e6)
    data = good.data.load()
    results = train([good, bad, good], [0, 0, 1], data)
    assert results[1].loss is None
    assert results[1].steps < good.steps
    alone = [train([good], [seed], data)[0].loss for seed in (0, 1)]
    assert [results[0].loss, results[2].loss] == pytest.approx(alone, rel=1e-4)


def test_a_pruned_trial_leaves_at_the_next_point_of_its_curve_and_the_others_go_on() -> None:
    run = small(points=8)
    data, curves = run.data.load(), [0, 0]

    def report(index: int, point: dict[str, Any]) -> None:
        curves[index] = point["step"]

    def is_pruned(index: int) -> bool:
        return index == 0 and curves[0] > 10

    first, second = train([run, run], [0, 1], data, report=report, is_pruned=is_pruned)
    assert (first.pruned, first.loss, first.steps, curves[0]) == (True, None, 17, 17)
    assert not second.pruned
    assert second.loss == pytest.approx(train([run], [1], data)[0].loss, rel=1e-4)
    (whole,) = train([run], [0], data, is_pruned=lambda index: False)
    assert whole.loss is not None


def test_a_loss_that_is_not_finite_ends_its_trial_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, step, broken = small(points=2), Stack.step, 5
    curves: list[list[int]] = [[], []]

    def breaks(stack: Stack, *batch: Any) -> torch.Tensor:
        losses_K = step(stack, *batch)
        if stack.alive[0] == 0 and batch[-1] == broken:
            losses_K[0] = math.nan
        return losses_K

    monkeypatch.setattr(Stack, "step", breaks)
    results = train(
        [run, run], [0, 1], run.data.load(), report=lambda index, point: curves[index].append(point["step"])
    )
    assert (results[0].loss, results[0].steps) == (None, broken + 1)
    assert curves[0] == [1, broken + 1]
    assert curves[1] == [1, 33, 64]  # no point more than without the other
    assert results[1].loss is not None


def test_a_curve_has_few_points_and_ends_with_the_last_step() -> None:
    run = small(points=8)
    points: list[dict[str, Any]] = []
    train([run], [0], run.data.load(), report=lambda index, point: points.append(point))
    assert [points[0]["step"], points[-1]["step"]] == [1, run.steps]
    assert len(points) <= run.points + 1
    assert points[-1]["tokens"] == run.tokens


def test_the_budget_is_whole_batches() -> None:
    assert small(tokens=4096 + 63).steps == 64
    assert dataclasses.replace(small(), tokens=64).steps == 1


def test_the_training_loss_is_the_mean_of_the_last_steps_also_when_others_have_left() -> None:
    runs = [small(lr=lr, points=64, loss="training", last=0.25) for lr in (2.0**-6, 2.0**9, 2.0**-7)]
    curves: list[list[float]] = [[], [], []]
    results = train(
        runs, [0, 0, 0], runs[0].data.load(), report=lambda index, point: curves[index].append(point["loss"])
    )
    assert runs[0].steps == 64
    assert results[1].loss is None
    for index in (0, 2):
        last = curves[index][-16:]
        assert results[index].loss == pytest.approx(sum(last) / 16, rel=1e-6)
        assert results[index].loss != pytest.approx(curves[index][-1], rel=1e-4)
        assert results[index].loss_se is not None


def test_the_training_loss_of_a_single_step_has_no_standard_error() -> None:
    run = small(tokens=64, loss="training")
    (result,) = train([run], [0], run.data.load())
    assert result.loss == pytest.approx(result.initial_loss)
    assert result.loss_se is None


def test_the_order_of_the_data_goes_by_its_seed() -> None:
    run = small()
    data, other = run.data.load(), dataclasses.replace(run, data_seed=1)
    (one,), (another,) = train([run], [0], data), train([other], [0], data)
    assert one.loss != another.loss
    stack = Stack([other], [0], device="cpu")
    curve: list[float] = []
    train([other], [0], data, report=lambda index, point: curve.append(point["loss"]))
    batches = (data.batch(seed=1, step=step, batch=run.batch, sequence=run.sequence) for step in range(run.steps))
    expected = [stack.step(*batch, step).item() for step, batch in enumerate(batches)]
    assert [curve[0], curve[-1]] == [expected[0], expected[-1]]


def test_a_trial_diverges_by_its_own_first_loss_whoever_has_left() -> None:
    training = Training([small()] * 3, [0, 1, 2], device="cpu", end=None, is_pruned=lambda index: False)
    training.drop_diverged([4.0, 2.0, 1.0])
    training.drop_diverged([math.nan, 2.0, 1.0])
    training.drop_diverged([3.5, 1.4])  # above 1.5 times 2.0, not 1.5 times 4.0; and below 1.5 times 1.0
    assert training.stack.alive == [2]
    assert [training.results[index].initial_loss for index in (0, 1)] == [4.0, 2.0]


def test_no_trial_is_pruned_at_the_last_point() -> None:
    run, seen = small(points=4), [0]
    data = run.data.load()

    def report(index: int, point: dict[str, Any]) -> None:
        seen[0] = point["step"]

    (result,) = train([run], [0], data, report=report, is_pruned=lambda index: seen[0] == run.steps)
    assert (result.pruned, result.steps) == (False, run.steps)
    assert result.loss is not None


def test_a_training_that_goes_on_counts_the_time_before() -> None:
    run, seconds = small(tokens=64), []
    data = run.data.load()
    first = Training([run], [0], device="cpu", end=None, is_pruned=lambda index: False)
    state = {**first.state(), "share_s": 1000.0}
    again = Training(
        [run], [0], device="cpu", end=lambda *ended: seconds.append(ended[2]), is_pruned=lambda index: False
    )
    again.restore(state)
    batch = data.batch(seed=0, step=0, batch=run.batch, sequence=run.sequence)
    again.drop_diverged(again.step(*batch).tolist())
    again.finish(data.validation(windows=run.validation_windows, sequence=run.sequence))
    assert 1000 < seconds[0] < 1100


def test_the_error_of_a_mean_falls_with_the_root_of_the_number() -> None:
    windows = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    ((mean, error),) = means(windows)
    assert (mean, error) == pytest.approx((2.5, windows.std().item() / 2))
