"""TPE: tree-structured Parzen estimator (Optuna's TPESampler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, ChoosingSamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("tpe")
@dataclass(kw_only=True)
class TpeConfig(ChoosingSamplerConfig):
    """Settings of sampler=tpe."""

    name: str = "tpe"

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=min(5, self.trials), constant_liar=True)
