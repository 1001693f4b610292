"""Grid: every value of the sweep's grid at every scale.

The grid is extended where the best value is at an edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, SamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("grid")
@dataclass(kw_only=True)
class GridConfig(SamplerConfig):
    """Settings of sampler=grid."""

    name: str = "grid"

    @property
    def points(self) -> int | None:
        return None

    def check(self, place: str) -> None:
        """Accept: the values are those of the sweep file."""

    def build(self, seed: int) -> BaseSampler:
        # The driver adds each grid point to the study as a running trial when it is submitted, so a study needs a
        # sampler but never asks it. (GridSampler would repeat and skip points when trials run concurrently.)
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
