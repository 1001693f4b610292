"""The loss at a target's optimum: powers above a floor that a handful of scales hardly shows."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hptransfer.analysis.laws.loss_law import fit_loss_law
from tests.support.slow import slow_except

Loss = Callable[[dict[str, float]], float]
NOISE, SWEEPS = 0.002, 40


def above_a_floor(axes: Sequence[str], random: np.random.Generator) -> Loss:
    floor = random.uniform(1.0, 2.2)
    terms = [(axis, random.uniform(0.3, 2.0), random.uniform(0.25, 0.4)) for axis in axes]
    return lambda scale: floor + sum(a * scale[axis] ** -power for axis, a, power in terms)


def one_power(axes: Sequence[str], random: np.random.Generator) -> Loss:
    powers = dict(zip(axes, random.uniform(0.02, 0.2, len(axes)), strict=True))
    return lambda scale: 3.0 * math.prod(scale[axis] ** -power for axis, power in powers.items())


def found(axes: Sequence[str], sizes: Sequence[int], truth: Loss, seed: int) -> tuple[float, float, float, float]:
    """Prediction with its interval, and the truth, two octaves beyond the largest scale along every axis."""
    scales = [dict(zip(axes, map(float, place), strict=True)) for place in itertools.product(sizes, repeat=len(axes))]
    scales.sort(key=lambda scale: math.prod(scale.values()))
    random = np.random.default_rng([1, seed])
    intercepts = np.log([truth(scale) for scale in scales]) + NOISE * random.standard_normal(len(scales))
    target = dict.fromkeys(axes, 4.0 * sizes[-1])
    return *fit_loss_law(scales, intercepts).at(target), truth(target)


@pytest.mark.parametrize(
    ("sizes", "axes"),
    slow_except(
        itertools.product([(1, 4), (1, 2, 4), (1, 2, 4, 8)], [("params",), ("params", "tokens")]),
        ((1, 4), ("params", "tokens")),
        ((1, 2, 4), ("params",)),
    ),
)
def test_the_interval_holds_the_targets_loss(axes: Sequence[str], sizes: Sequence[int]) -> None:
    rows = [found(axes, sizes, above_a_floor(axes, np.random.default_rng(seed)), seed) for seed in range(SWEEPS)]
    assert np.mean([low <= truth <= high for _, low, high, truth in rows]) >= 0.85
    assert np.mean([high / low < 1.3 for _, low, high, _ in rows]) >= 0.85


def test_a_line_through_the_logs_is_too_low_and_the_law_is_not() -> None:
    sizes = (1, 2, 4, 8)
    wrong, right = [], []
    for seed in range(SWEEPS):
        truth = above_a_floor(["params"], np.random.default_rng(seed))
        logs = np.log([truth({"params": float(size)}) for size in sizes])
        line = np.polyfit(np.log2(sizes), logs, 1)
        wrong.append(np.polyval(line, 5.0) - math.log(truth({"params": 32.0})))
        value, _, _, there = found(["params"], sizes, truth, seed)
        right.append(math.log(value / there))
    assert np.mean(wrong) < -0.04
    assert abs(np.mean(right)) < 0.01


def test_a_power_of_the_whole_loss_is_found_too() -> None:
    axes = ("params", "tokens")
    rows = [found(axes, (1, 2, 4, 8), one_power(axes, np.random.default_rng(seed)), seed) for seed in range(SWEEPS)]
    assert np.mean([low <= truth <= high for _, low, high, truth in rows]) >= 0.8
    assert np.sqrt(np.mean([math.log(value / truth) ** 2 for value, _, _, truth in rows])) < 0.015


@pytest.mark.parametrize("unit", [1e-4, 1.0, 50.0])
def test_losses_of_any_unit(unit: float) -> None:
    truth = above_a_floor(["params"], np.random.default_rng(0))
    value, low, high, there = found(["params"], (1, 2, 4, 8), lambda scale: unit * truth(scale), 0)
    plain = found(["params"], (1, 2, 4, 8), truth, 0)
    assert np.array([value, low, high, there]) == pytest.approx(unit * np.array(plain), rel=1e-6)


def test_one_scale_says_its_own_loss() -> None:
    value, low, high = fit_loss_law([{"width": 64.0}], np.array([math.log(2.0)])).at({"width": 64.0})
    assert low < value < high
    assert value == pytest.approx(2.0, rel=0.02)
