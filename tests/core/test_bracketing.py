"""The next value is tried where the optimum may lie, until it is bracketed."""

import math

import pytest

from hptransfer.core.bracketing import next_value


def parabola(optimum: float, values: list[float]) -> dict[float, float]:
    return {value: (math.log2(value) - math.log2(optimum)) ** 2 for value in values}


VALUES = [2.0**k for k in range(-9, -4)]


@pytest.mark.parametrize("optimum", [2.0**-7, 2.0**-7.4, 2.0**-6.6])
def test_a_bracketed_optimum_needs_nothing(optimum: float) -> None:
    assert next_value(parabola(optimum, VALUES)) is None


def test_an_edge_is_extended_on_its_side_by_a_grid_step() -> None:
    assert next_value(parabola(2.0**-12, VALUES)) == 2.0**-10
    assert next_value(parabola(2.0**-2, VALUES)) == 2.0**-4


def test_a_vertex_beyond_the_second_value_is_extended_too() -> None:
    # The best grid value is the second, but the parabola's vertex lies between first and second.
    assert next_value(parabola(2.0**-8.3, VALUES)) == 2.0**-10
    assert next_value(parabola(2.0**-5.7, VALUES)) == 2.0**-4
    assert next_value(parabola(2.0**-7.9, VALUES)) is None


def test_extending_ends_at_the_optimum() -> None:
    losses = parabola(2.0**-14, VALUES)
    asked = []
    while (value := next_value(losses)) is not None:
        asked.append(math.log2(value))
        losses |= parabola(2.0**-14, [value])
    assert asked == [-10, -11, -12, -13, -14, -15]


def test_a_diverged_neighbour_is_approached_a_limited_number_of_times() -> None:
    losses = {2.0**-8: 3.0, 2.0**-7: 2.5, 2.0**-5: math.inf}
    assert next_value(losses) == 2.0**-6
    assert next_value({**losses, 2.0**-6: math.inf}) is None


def test_when_all_diverge_lower_values_are_tried() -> None:
    assert next_value({0.25: math.inf, 0.5: math.inf, 1.0: math.inf}) == 0.125
