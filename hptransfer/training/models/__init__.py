"""Models of the builtin trainer.

One file each; the file's name is the model's.
"""

from hptransfer.training.models._base import (
    BF16,
    FLOAT32,
    MODELS,
    PRECISIONS,
    ModelConfig,
)

__all__ = [
    "BF16",
    "FLOAT32",
    "MODELS",
    "ModelConfig",
    "PRECISIONS",
]
