"""Bracketing of an optimum on a grid, and the next value.

An optimum is bracketed only if worse values lie on both sides of it. (Porian et al., arXiv:2406.19146, flag an optimum
outside the second to second-to-last grid point.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

# A value between the best one and a diverged neighbour is tried only if it is at least this far from both.
CLOSEST_OCTAVES = 0.6
SMALLEST_VALUE, LARGEST_VALUE = 1e-30, 1e30
"""Bounds of an axis' or a tuned value, far beyond any model: products of three of them are finite."""


def next_value(losses: Mapping[float, float]) -> float | None:
    """Return the value to try next; None if the optimum is bracketed.

    Args:
        losses: loss by value of the hyperparameter (above 0); infinite if the trial diverged. At least two values.

    Returns:
        A value one grid step beyond the edge if the best value is there, or one between the best value and a
        diverged neighbour.
    """
    values = sorted(losses)
    best = min(range(len(values)), key=lambda index: losses[values[index]])
    if math.isinf(losses[values[best]]):
        return beyond(values[1], values[0])  # all diverged: learning rates diverge when too high
    if best == 0:
        return beyond(values[1], values[0])
    if best == len(values) - 1:
        return beyond(values[-2], values[-1])
    below, above = losses[values[best - 1]], losses[values[best + 1]]
    if math.isinf(above) or math.isinf(below):
        worse = values[best + 1] if math.isinf(above) else values[best - 1]
        if abs(math.log2(worse / values[best])) > 2 * CLOSEST_OCTAVES:
            return canonical(math.sqrt(worse * values[best]))
        return None
    if best == 1 and below < above and vertex_is_low(values, losses, best):
        return beyond(values[1], values[0])
    if best == len(values) - 2 and above < below and not vertex_is_low(values, losses, best):
        return beyond(values[-2], values[-1])
    return None


def is_inside(losses: Mapping[float, float]) -> bool:
    """Test if values lie on both sides of the best one.

    A best value that diverged is not inside.
    """
    best = min(losses, key=lambda value: losses[value])
    return min(losses) < best < max(losses) and math.isfinite(losses[best])


def vertex_is_low(values: list[float], losses: Mapping[float, float], best: int) -> bool:
    """Test if the parabola through the best point has a lower vertex.

    The parabola runs through the point and its two neighbours, on a log axis.
    """
    x_low, x, x_high = (math.log2(value) for value in values[best - 1 : best + 2])
    y_low, y, y_high = (losses[value] for value in values[best - 1 : best + 2])
    slope_low = (y - y_low) / (x - x_low)
    slope_high = (y_high - y) / (x_high - x)
    slope = (slope_low * (x_high - x) + slope_high * (x - x_low)) / (x_high - x_low)
    return slope > 0


def beyond(inner: float, edge: float) -> float:
    """Return the value one grid step beyond an edge (log axis)."""
    return canonical(edge * edge / inner)


def canonical(value: float) -> float:
    """Round to twelve significant digits.

    A trial's id is a hash of the value, which must not depend on the way it was computed.
    """
    return float(f"{value:.12g}")


def near_repeat(values: Iterable[float]) -> tuple[float, float] | None:
    """Return the first two different values that `canonical` makes equal."""
    seen: dict[float, float] = {}
    for value in values:
        if (earlier := seen.setdefault(canonical(value), value)) != value:
            return earlier, value
    return None
