"""Samplers: choose the tuned values that a scale tries, one file each."""

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
