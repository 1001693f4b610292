"""Datasets of the builtin trainer.

One file each; the file's name is the dataset's.
"""

from hptransfer.training.datasets._base import (
    DATASETS,
    FEATURES,
    IMAGES,
    SQUARED,
    TOKENS,
    DataConfig,
    Dataset,
    DataShape,
    shuffled,
)

__all__ = [
    "DATASETS",
    "DataConfig",
    "Dataset",
    "FEATURES",
    "IMAGES",
    "SQUARED",
    "DataShape",
    "TOKENS",
    "shuffled",
]
