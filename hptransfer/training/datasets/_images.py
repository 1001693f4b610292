"""Dataset of labelled images in memory."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from hptransfer.core.errors import DataError
from hptransfer.training.datasets import Dataset, shuffled


class Images(Dataset):
    """Labelled images in memory, the last ones held out.

    Args:
        images: (N, C, H, W), of any type; a batch is (image - mean) / deviation as float32.
        labels: (N, 1) int64.
        held_out: number of images at the end that are held out.
        mean, deviation: one number, or one per channel, (C, 1, 1).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        held_out: int,
        mean: Tensor | float = 0.0,
        deviation: Tensor | float = 1.0,
    ) -> None:
        size = len(images) - held_out
        self._train = images[:size], labels[:size]
        self._validation = images[size:], labels[size:]
        self._mean, self._deviation = mean, deviation
        content = hashlib.sha256(images.numpy().data)
        content.update(labels.numpy().data)
        self.fingerprint = content.hexdigest()[:16]

    def batch(self, *, seed: int, step: int, batch: int, sequence: int) -> tuple[Tensor, Tensor]:
        images, labels = self._train
        index = torch.from_numpy(shuffled(size=len(images), seed=seed, step=step, batch=batch))
        return self._normalised(images[index]), labels[index]

    def validation(self, *, windows: int, sequence: int) -> tuple[Tensor, Tensor]:
        images, labels = self._validation
        if windows > len(images):
            raise DataError(
                f"run.validation_windows is {windows}, but there are {len(images)} examples to validate on; "
                "ask for fewer"
            )
        return self._normalised(images[:windows]), labels[:windows]

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self._mean) / self._deviation
