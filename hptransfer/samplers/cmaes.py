"""CMA-ES (Optuna's CmaEsSampler).

With a single tuned hyperparameter, Optuna samples it at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, ChoosingSamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("cmaes")
@dataclass(kw_only=True)
class CmaesConfig(ChoosingSamplerConfig):
    """Settings of sampler=cmaes."""

    name: str = "cmaes"

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(seed=seed, n_startup_trials=min(5, self.trials), warn_independent_sampling=False)
