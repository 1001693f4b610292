"""Random: values drawn uniformly over the range (Optuna's RandomSampler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, ChoosingSamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("random")
@dataclass(kw_only=True)
class RandomConfig(ChoosingSamplerConfig):
    """Settings of sampler=random."""

    name: str = "random"

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
