"""Samplers: which values of the tuned hyperparameter a scale tries. One file each."""

from hptransfer.samplers._base import (
    SAMPLERS,
    FreeSampler,
    SamplerConfig,
)

__all__ = [
    "FreeSampler",
    "SAMPLERS",
    "SamplerConfig",
]
