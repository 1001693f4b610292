"""Points of the tuned hyperparameters, and those that bracket the best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.core.bracketing import next_value
from hptransfer.core.records import short

Point = tuple[float, ...]
"""A value of every tuned hyperparameter, in the order of the sweep's `space`."""

# A line of fewer values through the best point brackets nothing.
MIN_LINE_POINTS = 3


@dataclass(frozen=True)
class Bounds:
    """Range of one hyperparameter.

    Attributes:
        low, high: of the values that the sweep tries at every scale.
        extend: further values on either side while the best is at that edge.
        largest: upper bound of all values.
    """

    name: str
    low: float
    high: float
    extend: int
    largest: float


def product(grids: Sequence[Sequence[float]]) -> list[Point]:
    """Return every combination of the values."""
    return list(itertools.product(*grids))


def one_at_a_time(grids: Sequence[Sequence[float]], centers: Sequence[float]) -> list[Point]:
    """Return the points with at most one value off its center.

    They are in the order in which `product` has them.
    """
    center = tuple(centers)
    points = {center, *((*center[:k], value, *center[k + 1 :]) for k, grid in enumerate(grids) for value in grid)}
    return sorted(points, key=lambda point: [grid.index(value) for grid, value in zip(grids, point, strict=True)])


def middle_first(points: Sequence[Point], grids: Sequence[Sequence[float]]) -> list[Point]:
    """Sort the points by their steps from the middle of the grids."""

    def steps(point: Point) -> int:
        return sum(abs(grid.index(value) - len(grid) // 2) for grid, value in zip(grids, point, strict=True))

    return sorted(points, key=steps)


def lines_through_best(losses: Mapping[Point, float]) -> list[dict[float, float]]:
    """Return the losses along each hyperparameter through the best point."""
    best = min(losses, key=lambda point: losses[point])

    def along(k: int) -> dict[float, float]:
        fixed = best[:k] + best[k + 1 :]
        return {point[k]: loss for point, loss in losses.items() if point[:k] + point[k + 1 :] == fixed}

    return [along(k) for k in range(len(best))]


def next_point(losses: Mapping[Point, float], ranges: Sequence[Bounds]) -> Point | None:
    """Return the next point that helps to bracket the best one.

    It is None if none is left within the ranges.

    Args:
        losses: mean loss by point; infinite if a trial of it diverged.
    """
    if not losses:
        return None
    best = min(losses, key=lambda point: losses[point])
    for k, (line, limit) in enumerate(zip(lines_through_best(losses), ranges, strict=True)):
        value = next_value(line) if len(line) >= MIN_LINE_POINTS else None
        if value is None or value in line or value > limit.largest:
            continue
        below = value < limit.low
        beyond = [tried for tried in line if (tried < limit.low if below else tried > limit.high)]
        if len(beyond) < limit.extend:
            return (*best[:k], value, *best[k + 1 :])
    return None


def unbracketed_edges(losses: Mapping[Point, float], ranges: Sequence[Bounds]) -> list[str]:
    """Return one line for each hyperparameter that is not bracketed.

    An example is "best lr 0.125 of 0.001 to 0.125".
    """
    if not losses:
        return []
    best = min(losses, key=lambda point: losses[point])
    return [
        f"best {limit.name} {short(best[k])} of {short(min(line))} to {short(max(line))}"
        for k, (line, limit) in enumerate(zip(lines_through_best(losses), ranges, strict=True))
        if len(line) >= MIN_LINE_POINTS and next_value(line) is not None
    ]
