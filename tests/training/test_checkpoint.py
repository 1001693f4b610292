"""Training that was stopped goes on to the same bits, and a checkpoint that is of no use costs only time."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.errors import Interrupted
from hptransfer.core.records import PREEMPTED
from hptransfer.training.checkpoint import Checkpoint
from hptransfer.training.config import RunConfig
from hptransfer.training.loop import Result, train
from hptransfer.training.models._base import MODELS
from hptransfer.training.optimizers._base import OPTIMIZERS
from tests.training.settings import of_model

STEPS = 24
SEEDS = (0, 1, 2)


def runs_of(model: str, optimizer: str, **settings: Any) -> list[RunConfig]:
    """Three trials, of which the second diverges."""
    run = of_model(model, width=32, depth=2, **settings)
    one = OPTIMIZERS.get(optimizer)(name=optimizer)
    tokens = STEPS * run.tokens_a_step
    rates = (one.lr, 1e6, one.lr / 2)
    return [
        dataclasses.replace(run, tokens=tokens, points=STEPS, optimizer=dataclasses.replace(one, lr=lr)) for lr in rates
    ]


def after(steps: int) -> Callable[[], str | None]:
    """Asks to stop at the end of this step, counted from now."""
    asked = iter(range(1, steps + 1))
    return lambda: PREEMPTED if next(asked, steps) == steps else None


Curve = list[dict[str, Any]]


def trained(
    runs: list[RunConfig], path: Path, stop: Callable[[], str | None] = lambda: None, every_s: float = 1e9
) -> tuple[list[Result] | None, list[Curve], int]:
    """Results, None if training was stopped, and the curves' points; and the step that it began with."""
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
    """Stopped after each of these numbers of steps, training gives the bits of one that never was."""
    whole, curves, _ = trained(runs, path)
    assert whole is not None
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
    """The trial that diverges leaves at the second point: before one stop, and after the other."""
    assert_resumes(runs_of("mlp", optimizer), tmp_path / "checkpoint", at=(1, 6, 2))


@pytest.mark.parametrize("model", MODELS.names())
def test_every_model_resumes_to_the_same_bits(model: str, tmp_path: Path) -> None:
    assert_resumes(runs_of(model, "adamw"), tmp_path / "checkpoint", at=(1, 7))
