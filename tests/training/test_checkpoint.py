"""Stopped training resumes to the same bits; useless checkpoints cost only time."""

import dataclasses
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hptransfer.core.errors import Interrupted
from hptransfer.core.records import PREEMPTED, digest
from hptransfer.training.checkpoint import Checkpoint
from hptransfer.training.config import RunConfig
from hptransfer.training.loop import Result, train
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from hptransfer.training.unit_scaling import UnitConfig
from hptransfer.worker.interruption import StopCheck
from tests.support.settings import of_model
from tests.support.slow import slow_except

STEPS, POINTS = 24, 8
SEEDS = (0, 1, 2)
TOO_HIGH = {"resnet": 1e9}  # below that its ReLUs die, and it answers alike for all


def runs_of(model: str, optimizer: str, **changes: Any) -> list[RunConfig]:
    """Return three trials, of which the second diverges.

    It leaves at the second point, after four steps, or breaks before.
    """
    run = dataclasses.replace(of_model(model, width=32, depth=2), **changes)
    one = OPTIMIZERS.get(optimizer)(name=optimizer)
    tokens = STEPS * run.tokens_a_step
    rates = (one.lr, TOO_HIGH.get(model, 1e6), one.lr / 2)
    return [
        dataclasses.replace(run, tokens=tokens, points=POINTS, optimizer=dataclasses.replace(one, lr=lr))
        for lr in rates
    ]


def after(steps: int) -> Callable[[], str | None]:
    """Ask to stop at the end of this step, counted from now."""
    asked = iter(range(1, steps + 1))
    return lambda: PREEMPTED if next(asked, steps) == steps else None


Curve = list[dict[str, Any]]


def trained(
    runs: list[RunConfig], path: Path, stop: Callable[[], str | None] = lambda: None, every_s: float = 1e9
) -> tuple[list[Result] | None, list[Curve], int]:
    """Return results, the curves' points, and the first step.

    Results are None if training was stopped.
    """
    curves: list[Curve] = [[] for _ in runs]
    checkpoint = Checkpoint(path, settings={"runs": repr(runs)}, every_s=every_s, stop=stop)
    began = checkpoint.step

    def report(index: int, point: dict[str, Any]) -> None:
        curves[index].append({key: value for key, value in point.items() if key != "time"})

    try:
        return train(runs, SEEDS[: len(runs)], runs[0].data.load(), report=report, checkpoint=checkpoint), curves, began
    except Interrupted:
        return None, curves, began


def joined(before: list[Curve], after_: list[Curve]) -> list[Curve]:
    return [first + second for first, second in zip(before, after_, strict=True)]


def assert_resumes(runs: list[RunConfig], path: Path, *, at: tuple[int, ...]) -> None:
    """Assert that stopped training gives the bits of uninterrupted training.

    It is stopped after each of these numbers of steps.
    """
    whole, curves, _ = trained(runs, path)
    assert whole is not None
    left = curves[1][-1]
    assert left["step"] == 4 if left["loss"] is not None else 1 < left["step"] <= 4
    ends = [(False, STEPS), (True, left["step"]), (False, STEPS)]
    assert [(result.loss is None, result.steps) for result in whole] == ends
    parts: list[Curve] = [[] for _ in runs]
    for number, steps in enumerate(at):
        results, part, began = trained(runs, path, after(steps))
        assert results is None
        assert began == sum(at[:number])
        parts = joined(parts, part)
    results, part, began = trained(runs, path)
    assert began == sum(at)
    assert joined(parts, part) == curves
    assert results == whole
    assert not list(path.parent.iterdir()), "one checkpoint a stack, and none when it is done"


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer_resumes_to_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    """Stop before the diverging trial leaves, at that point, and after it."""
    assert_resumes(runs_of("mlp", optimizer, loss="training"), tmp_path / "checkpoint", at=(1, 3, 1, 15))


@pytest.mark.parametrize("model", slow_except(MODELS.names(), "mlp", "transformer"))
def test_every_model_resumes_to_the_same_bits(model: str, tmp_path: Path) -> None:
    """Stop between two points too.

    There a model has counted part of its next report.
    """
    assert_resumes(runs_of(model, "adamw"), tmp_path / "checkpoint", at=(2, 6, 16))


def test_numbers_of_each_trial_are_those_of_the_trials_that_are_left(tmp_path: Path) -> None:
    runs = runs_of("transformer", "adamw", parameterization="umup")
    for run, sharpness in zip(runs, (1.0, 0.5, 2.0), strict=True):
        run.unit = UnitConfig(loss=sharpness, activation=sharpness, attention=sharpness)
    assert_resumes(runs, tmp_path / "checkpoint", at=(5, 8))


def test_a_model_that_draws_goes_on_with_the_same_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Stack.outputs
    monkeypatch.setattr(Stack, "outputs", lambda stack, inputs: F.dropout(outputs(stack, inputs), 0.2))
    runs = runs_of("mlp", "adamw")
    torch.manual_seed(0)
    whole, curves, _ = trained(runs, tmp_path / "checkpoint")
    torch.manual_seed(0)
    _, before, _ = trained(runs, tmp_path / "checkpoint", after(9))
    torch.manual_seed(1)  # as in another process
    results, rest, _ = trained(runs, tmp_path / "checkpoint")
    assert (results, joined(before, rest)) == (whole, curves)


class Code:
    """Function that a pickle calls while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_is_code_is_set_aside_unexecuted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint"
    torch.save({"version": 1, "settings": digest({}), "state": {"step": 3, "code": Code(tmp_path / "ran")}}, path)
    checkpoint = Checkpoint(path, settings={}, every_s=1e9, stop=lambda: None)
    assert checkpoint.step == 0
    assert not (tmp_path / "ran").exists()
    assert "cannot be used" in capsys.readouterr().out
    assert not path.exists()
    torch.save({"version": 1, "settings": digest({}), "state": {"step": 3}}, path)  # the control
    assert Checkpoint(path, settings={}, every_s=1e9, stop=lambda: None).step == 3


def test_results_come_as_trials_end_and_share_the_time(tmp_path: Path) -> None:
    runs = runs_of("mlp", "adamw")
    ended: list[tuple[int, int, float]] = []
    points: list[int] = []
    train(
        runs,
        SEEDS,
        runs[0].data.load(),
        report=lambda index, point: points.append(point["step"]),
        end=lambda index, result, seconds: ended.append((index, points[-1], seconds)),
    )
    assert [(index, step) for index, step, _ in ended] == [(1, 4), (0, STEPS), (2, STEPS)]
    assert 0 < ended[0][2] < ended[1][2] == ended[2][2]


def test_asking_and_looking_at_the_clock_cost_nothing_beside_a_step(tmp_path: Path) -> None:
    """The smallest steps of this suite take half a millisecond."""
    checkpoint = Checkpoint(tmp_path / "checkpoint", settings={}, every_s=1e9, stop=StopCheck(ends=2e9))
    seconds = min(timeit.repeat(lambda: checkpoint.keep(dict), number=1000, repeat=5)) / 1000
    assert seconds < 2e-5
