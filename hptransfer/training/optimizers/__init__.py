"""Optimizers of the builtin trainer.

One file each; the file's name is the optimizer's.
"""

from hptransfer.training.optimizers._base import (
    OPTIMIZERS,
    DecoupledDecay,
    OptimizerConfig,
    TwoBetasConfig,
)

__all__ = [
    "DecoupledDecay",
    "OPTIMIZERS",
    "OptimizerConfig",
    "TwoBetasConfig",
]
