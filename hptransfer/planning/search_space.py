"""Settings of the tuned hyperparameters: which a scale tries first, and which next to bracket its best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hptransfer.core.bracketing import next_value
from hptransfer.core.records import short

Point = tuple[float, ...]
"""A value of every tuned hyperparameter, in the order of the sweep's `space`."""

# A line of fewer values through the best setting brackets nothing.
MIN_LINE_POINTS = 3


@dataclass(frozen=True)
class Bounds:
    """How far one hyperparameter may go.

    Attributes:
        low, high: of what the sweep tries at every scale.
        extend: further values on either side while the best is at that edge.
        largest: no value is above this.
    """

    name: str
    low: float
    high: float
    extend: int
    largest: float


def product(grids: Sequence[Sequence[float]]) -> list[Point]:
    """Every combination."""
    return list(itertools.product(*grids))


def one_at_a_time(grids: Sequence[Sequence[float]], centers: Sequence[float]) -> list[Point]:
    """One hyperparameter at a time, the others at their centers."""
    return [
        setting
        for setting in product(grids)
        if sum(value != center for value, center in zip(setting, centers, strict=True)) <= 1
    ]


def middle_first(settings: Sequence[Point], grids: Sequence[Sequence[float]]) -> list[Point]:
    """The same, by how many steps of the grids they are from the middle of all."""

    def steps(setting: Point) -> int:
        return sum(abs(grid.index(value) - len(grid) // 2) for grid, value in zip(grids, setting, strict=True))

    return sorted(settings, key=steps)


def lines_through_best(losses: Mapping[Point, float]) -> list[dict[float, float]]:
    """Losses along each hyperparameter through the best setting, the others held at their best."""
    best = min(losses, key=lambda setting: losses[setting])

    def along(k: int) -> dict[float, float]:
        others = best[:k] + best[k + 1 :]
        return {setting[k]: loss for setting, loss in losses.items() if setting[:k] + setting[k + 1 :] == others}

    return [along(k) for k in range(len(best))]


def next_point(losses: Mapping[Point, float], ranges: Sequence[Bounds]) -> Point | None:
    """The setting that would help most to bracket the best one, within the ranges; None if there is none.

    Args:
        losses: mean loss by setting; infinite where one diverged.
    """
    if not losses:
        return None
    best = min(losses, key=lambda setting: losses[setting])
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
    """What is not bracketed, such as "best lr 0.125 of 0.001 to 0.125"."""
    if not losses:
        return []
    best = min(losses, key=lambda setting: losses[setting])
    return [
        f"best {limit.name} {short(best[k])} of {short(min(line))} to {short(max(line))}"
        for k, (line, limit) in enumerate(zip(lines_through_best(losses), ranges, strict=True))
        if len(line) >= MIN_LINE_POINTS and next_value(line) is not None
    ]
