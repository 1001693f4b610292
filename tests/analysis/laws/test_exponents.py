"""Verdicts are read from the whole interval of an exponent."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hptransfer.analysis.laws.exponents import DRIFTS, TRANSFERS, UNDECIDED, Exponent, exponents, has_verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [
        (-0.25, 0.25, TRANSFERS, "transfers"),
        (0.05, 0.2, TRANSFERS, "moves, transfers"),  # not zero, and small
        (-0.2, -0.05, TRANSFERS, "moves, transfers"),
        (-0.26, 0.25, UNDECIDED, "may move"),
        (-0.25, 0.26, UNDECIDED, "may move"),
        (0.25, 0.5, UNDECIDED, "moves"),
        (-0.5, -0.25, UNDECIDED, "moves"),
        (-0.31, -0.2, UNDECIDED, "moves"),  # how far is undecided, that it moves is not
        (-0.5, 0.5, UNDECIDED, "may move"),
        (0.1, 0.9, UNDECIDED, "moves"),
        (0.26, 0.5, DRIFTS, "moves, does not transfer"),
        (-0.5, -0.26, DRIFTS, "moves, does not transfer"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_the_tolerance(
    low: float, high: float, verdict: str, words: str
) -> None:
    exponent = Exponent((low + high) / 2, low, high)
    assert exponent.verdict == verdict
    assert exponent.moves == words.startswith("moves")
    assert exponent.sentence("lr", "width") == f"{(low + high) / 2:+.2f} [{low:+.2f}, {high:+.2f}] {words}"


def test_the_standard_error_is_that_of_a_normal_interval() -> None:
    assert Exponent(0.1, 0.1 - 1.645, 0.1 + 1.645).se == pytest.approx(1)


@pytest.mark.parametrize(
    ("tuned", "axis", "judged"),
    [("lr", "width", True), ("lr", "tokens", True), ("batch_size", "width", False), ("batch_size", "noise", True)],
)
def test_learning_rates_alone_are_judged_along_sizes_and_budgets(tuned: str, axis: str, judged: bool) -> None:
    assert has_verdict(tuned, axis) == judged
    assert Exponent(0.0, -0.1, 0.1).sentence(tuned, axis).endswith(TRANSFERS) == judged


def test_an_exponent_is_the_slope_between_the_ends_of_its_axis_alone() -> None:
    """Exponents of a law with these powers.

    Its draws differ by a uniform error of up to half an octave per octave.
    """
    powers = {"width": (-0.5, 0.25), "tokens": (1.0, 0.0)}
    swept = SimpleNamespace(
        values={"width": [16, 32, 256], "depth": [2], "tokens": [1000, 4000]}, moving=["width", "tokens"]
    )
    errors = np.linspace(-0.5, 0.5, 1001)

    def octaves(scales: list[dict[str, float]]) -> Any:
        return np.array([[np.log2(scale[axis] / swept.values[axis][0]) for axis in powers] for scale in scales])

    def mean(scales: list[dict[str, float]]) -> Any:
        assert all(scale["depth"] == 2 for scale in scales)
        return octaves(scales) @ np.array(list(powers.values())) - 6

    def draws(scales: list[dict[str, float]]) -> Any:
        return mean(scales)[None] + errors[:, None, None] * octaves(scales).sum(axis=1)[None, :, None]

    found = exponents(SimpleNamespace(draws=draws, mean=mean), swept, ["lr", "beta"])  # type: ignore[arg-type]
    assert {name: list(by_axis) for name, by_axis in found.items()} == {key: [*powers] for key in ("lr", "beta")}
    for k, name in enumerate(("lr", "beta")):
        for axis, expected in powers.items():
            one = found[name][axis]
            assert (one.value, one.low, one.high) == pytest.approx(
                (expected[k], expected[k] - 0.45, expected[k] + 0.45), abs=1e-6
            )
