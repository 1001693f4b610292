"""QMC: a scrambled Sobol sequence over the range (Optuna's QMCSampler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.samplers import SAMPLERS, ChoosingSamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@SAMPLERS.register("qmc")
@dataclass(kw_only=True)
class QmcConfig(ChoosingSamplerConfig):
    """Settings of sampler=qmc."""

    name: str = "qmc"

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import QMCSampler

        return QMCSampler(seed=seed, scramble=True)
