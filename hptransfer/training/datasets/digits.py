"""Digits: scikit-learn's 1,797 images of handwritten digits, 8 x 8 pixels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hptransfer.core.errors import DataError
from hptransfer.training.datasets import DATASETS, IMAGES, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._images import Images

# Number of held-out examples; the split is fixed.
HELD_OUT = 297


@DATASETS.register("digits")
@dataclass(kw_only=True)
class DigitsConfig(DataConfig):
    """Settings of Digits."""

    name: str = "digits"

    def shape(self, sequence: int) -> DataShape:
        self.require_no_positions(sequence)
        return DataShape(kind=IMAGES, inputs=(1, 8, 8), outputs=10)

    def load(self) -> Dataset:
        images, labels = _load_digits()
        return Images(images, labels, held_out=HELD_OUT)


@functools.cache
def _load_digits() -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 8, 8) and labels (N, 1).

    Images have mean 0 and standard deviation 1. Their order mixes the writers.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("run/data=digits needs scikit-learn: pip install scikit-learn") from None
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    pixels = digits.images[order].astype(np.float32)
    pixels = (pixels - pixels.mean()) / pixels.std()
    return torch.from_numpy(pixels)[:, None], torch.from_numpy(digits.target[order].astype(np.int64))[:, None]
