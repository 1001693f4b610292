"""Stacks: trials that leave, trials that repeat, and curves."""

import dataclasses
from typing import Any

import pytest

from hptransfer.training.loop import train
from tests.training.settings import small


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
