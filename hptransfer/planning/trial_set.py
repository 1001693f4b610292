"""What a driver is to have trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hptransfer.config.sweep import HalvingConfig
from hptransfer.core.records import SWEEP, Scale
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import Bounds, Point, middle_first


@dataclass(frozen=True)
class TrialSet:
    """Settings at scales.

    Attributes:
        settings: tried at each scale; none if the sampler chooses.
        points: settings a scale tries if the sampler chooses.
        ranges: of each tuned hyperparameter, how far it is extended while its best value is at an edge.
        halving: which of its trials stop early.
    """

    purpose: str
    settings: Mapping[Scale, Sequence[Point]]
    points: int
    ranges: Sequence[Bounds]
    halving: HalvingConfig = field(default_factory=HalvingConfig)

    @property
    def scales(self) -> tuple[Scale, ...]:
        return tuple(self.settings)

    @property
    def chosen(self) -> bool:
        """Whether the sampler chooses what is tried."""
        return not any(self.settings.values())

    @classmethod
    def sweep(cls, plan: Plan) -> TrialSet:
        settings: Sequence[Point] = () if plan.config.sampler.points else plan.points
        if plan.config.halving.share is not None:  # what comes early is passed until something better comes
            settings = middle_first(settings, list(plan.grids.values()))
        return cls(
            SWEEP, dict.fromkeys(plan.scales, settings), plan.num_points, search_bounds(plan), plan.config.halving
        )

    @classmethod
    def of(cls, plan: Plan, settings: Mapping[Scale, Sequence[Point]]) -> TrialSet:
        """These settings and nothing else."""
        return cls(SWEEP, settings, 0, [replace(one, extend=0) for one in search_bounds(plan)])


def search_bounds(plan: Plan) -> list[Bounds]:
    """How far each tuned hyperparameter of a sweep may go."""
    return [
        Bounds(key, plan.grids[key][0], plan.grids[key][-1], tuned.extend, tuned.largest)
        for key, tuned in plan.config.space.items()
    ]
