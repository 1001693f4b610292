"""The trials that a driver is to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hptransfer.config.sweep import HalvingConfig
from hptransfer.core.records import SWEEP, Scale, Trial
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import Bounds, Point, middle_first


@dataclass(frozen=True)
class TrialSet:
    """Points at scales, or the number of points that a sampler proposes.

    Attributes:
        purpose: SWEEP or VERIFY.
        points: points of each scale; empty if a sampler proposes them.
        num_points: number of points that a scale tries if a sampler proposes them.
        bounds: limits of each tuned hyperparameter for extensions while its best value is at an edge.
        halving: settings by which trials are pruned.
        only: ids of all its trials, if others of the same purpose are to stay as they are.
    """

    purpose: str
    points: Mapping[Scale, Sequence[Point]]
    num_points: int
    bounds: Sequence[Bounds]
    halving: HalvingConfig = field(default_factory=HalvingConfig)
    only: frozenset[str] | None = None

    @property
    def scales(self) -> tuple[Scale, ...]:
        """Scales of the trials."""
        return tuple(self.points)

    @property
    def sampled(self) -> bool:
        """True if a sampler proposes the points."""
        return not any(self.points.values())

    def includes(self, trial: Trial) -> bool:
        """Test if a trial on disk is one of these."""
        return trial.purpose == self.purpose and (self.only is None or trial.id in self.only)

    @classmethod
    def sweep(cls, plan: Plan) -> TrialSet:
        """Return the trials of a whole sweep."""
        points: Sequence[Point] = () if plan.config.sampler.points else plan.points
        if plan.config.halving.share is not None:  # the first trials have none to be compared with
            points = middle_first(points, list(plan.grids.values()))
        return cls(SWEEP, dict.fromkeys(plan.scales, points), plan.num_points, search_bounds(plan), plan.config.halving)

    @classmethod
    def of(cls, plan: Plan, points: Mapping[Scale, Sequence[Point]]) -> TrialSet:
        """Return the trials of given points, without extensions."""
        return cls(SWEEP, points, 0, [replace(bounds, extend=0) for bounds in search_bounds(plan)])


def search_bounds(plan: Plan) -> list[Bounds]:
    """Return the bounds of each tuned hyperparameter of a sweep."""
    return [
        Bounds(key, plan.grids[key][0], plan.grids[key][-1], tuned.extend, tuned.largest)
        for key, tuned in plan.config.space.items()
    ]
