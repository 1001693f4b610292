"""Grid: every value of the sweep's grid, at every scale, extended where the best is at an edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, SamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("grid")
@dataclass(kw_only=True)
class GridConfig(SamplerConfig):
    name: str = "grid"

    @property
    def points(self) -> int | None:
        return None

    def check(self, place: str) -> None:
        """Nothing to check: the values are the sweep's."""

    def build(self, seed: int) -> BaseSampler:
        # All values are enqueued (GridSampler repeats and skips cells when trials run side by
        # side); the sampler is never asked for one.
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
