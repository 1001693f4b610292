"""Optimizers of the builtin trainer. One file each; the file's name is the optimizer's."""

from hptransfer.training.optimizers._base import (
    OPTIMIZERS,
    Decoupled,
    OptimizerConfig,
    TwoMemories,
)

__all__ = [
    "Decoupled",
    "OPTIMIZERS",
    "OptimizerConfig",
    "TwoMemories",
]
