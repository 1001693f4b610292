"""Points of the tuned hyperparameters, and those that bracket the best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hptransfer.core.bracketing import is_inside, next_value
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
    lines = _incomplete_lines(losses, ranges)
    return [
        f"best {name} {short(best)} of {short(min(line))} to {short(max(line))}"
        if math.isfinite(line[best])
        else f"{name} diverged from {short(min(line))} to {short(max(line))}"
        for name, best, line in lines
        if not is_inside(line)
    ]


def loosely_bracketed(losses: Mapping[Point, float], ranges: Sequence[Bounds]) -> list[str]:
    """Return one line for each hyperparameter whose bracket is loose.

    Worse values lie on both sides of the best one. One of them diverged far away, or is the last on the side to which
    the parabola through the three leans. An example is "best lr 0.125 beside 0.5, which diverged".
    """
    return [
        f"best {name} {short(best)} beside {_loose_side(best, line)}"
        for name, best, line in _incomplete_lines(losses, ranges)
        if is_inside(line)
    ]


def _loose_side(best: float, line: Mapping[float, float]) -> str:
    """Describe the neighbour of the best value on its loose side."""
    values = sorted(line)
    place = values.index(best)
    neighbours = values[place - 1], values[place + 1]
    if diverged := [value for value in neighbours if math.isinf(line[value])]:
        return f"{short(diverged[-1])}, which diverged"
    lower = line[neighbours[0]] < line[neighbours[1]]
    return (
        f"{short(neighbours[0] if lower else neighbours[1])}, the {'smallest' if lower else 'largest'} that was tried"
    )


def _incomplete_lines(
    losses: Mapping[Point, float], ranges: Sequence[Bounds]
) -> Iterator[tuple[str, float, Mapping[float, float]]]:
    """Yield each hyperparameter to which `next_value` would add a value.

    Yields:
        Its name, its best value, and the losses by its values.
    """
    if not losses:
        return
    for line, limit in zip(lines_through_best(losses), ranges, strict=True):
        if len(line) >= MIN_LINE_POINTS and next_value(line) is not None:
            yield limit.name, min(line, key=lambda value: line[value]), line
