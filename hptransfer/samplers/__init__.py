"""Samplers: which values of the tuned hyperparameter a scale tries. One file each."""

from hptransfer.samplers._base import (
    SAMPLERS,
    ChoosingSamplerConfig,
    SamplerConfig,
)

__all__ = [
    "ChoosingSamplerConfig",
    "SAMPLERS",
    "SamplerConfig",
]
