"""GP: Gaussian process with expected improvement (Optuna's GPSampler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, ChoosingSamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("gp")
@dataclass(kw_only=True)
class GpConfig(ChoosingSamplerConfig):
    """Settings of sampler=gp."""

    name: str = "gp"

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, n_startup_trials=min(5, self.trials))
