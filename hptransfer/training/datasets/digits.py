"""Digits: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, real images that ship with a package."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hptransfer.core.errors import DataError
from hptransfer.training.datasets import DATASETS, IMAGES, DataConfig, Dataset, Shape
from hptransfer.training.datasets._images import Images

# Examples that are held out; the split is the same for everyone.
HELD_OUT = 297


@DATASETS.register("digits")
@dataclass(kw_only=True)
class DigitsConfig(DataConfig):
    name: str = "digits"

    def shape(self, sequence: int) -> Shape:
        self.without_positions(sequence)
        return Shape(kind=IMAGES, inputs=(1, 8, 8), outputs=10)

    def load(self) -> Dataset:
        images, labels = _load()
        return Images(images, labels, held_out=HELD_OUT)


@functools.cache
def _load() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) of mean 0 and standard deviation 1, labels (N, 1), in an order that mixes the writers."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("run/data=digits needs scikit-learn: pip install scikit-learn") from None
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    pixels = digits.images[order].astype(np.float32)
    pixels = (pixels - pixels.mean()) / pixels.std()
    return torch.from_numpy(pixels)[:, None], torch.from_numpy(digits.target[order].astype(np.int64))[:, None]
