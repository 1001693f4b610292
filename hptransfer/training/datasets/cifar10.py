"""CIFAR-10: 60,000 colour images of 32 x 32 pixels, from local files.

The files are those of its binary version; there are ten classes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hptransfer.core.errors import ConfigError, DataError
from hptransfer.training.datasets import DATASETS, IMAGES, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._images import Images

# https://www.cs.toronto.edu/~kriz/cifar.html: a label, then 1,024 bytes each of red, green and blue, row by row.
TRAIN = tuple(f"data_batch_{index}.bin" for index in range(1, 6))
TEST = "test_batch.bin"
RECORDS, RECORD_BYTES = 10_000, 3_073
FOLDER_LAYOUT = (
    f"{TRAIN[0]} to {TRAIN[-1]} and {TEST}, each {RECORDS} records of {RECORD_BYTES} bytes (label, then 3 x 32 x 32)"
)


@DATASETS.register("cifar10")
@dataclass(kw_only=True)
class Cifar10Config(DataConfig):
    """Settings of CIFAR-10.

    Five files are for training, the test file is for validation. Each channel has mean 0 and variance 1 in training.
    """

    name: str = "cifar10"
    path: str = ""
    """Folder of the unpacked cifar-10-binary.tar.gz; required."""

    def shape(self, sequence: int) -> DataShape:
        self.require_no_positions(sequence)
        if not self.path:
            raise ConfigError(
                "run.data.path must be given with run/data=cifar10, got ''; set it to the folder of its files"
            )
        return DataShape(kind=IMAGES, inputs=(3, 32, 32), outputs=10)

    def load(self) -> Dataset:
        return _load_images(Path(self.path))


@functools.cache
def _load_images(folder: Path) -> Images:
    records = np.concatenate([_read_records(folder / name) for name in (*TRAIN, TEST)])
    labels = torch.from_numpy(records[:, :1].astype(np.int64))
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    mean, deviation = _moments(images[:-RECORDS])
    pixels = torch.from_numpy(images.copy())
    return Images(pixels, labels, held_out=RECORDS, mean=mean, deviation=deviation)


def _read_records(path: Path) -> NDArray[np.uint8]:
    """Read the records of a file, (10000, 3073)."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"run.data.path: cannot read {path} ({error.strerror}); the folder must hold {FOLDER_LAYOUT}"
        ) from None
    if content.size != RECORDS * RECORD_BYTES:
        raise DataError(
            f"run.data.path: {path} has {content.size} bytes, not {RECORDS * RECORD_BYTES}; unpack "
            f"cifar-10-binary.tar.gz again: the folder must hold {FOLDER_LAYOUT}"
        )
    records = content.reshape(RECORDS, RECORD_BYTES)
    if (largest := records[:, 0].max()) > 9:
        raise DataError(f"run.data.path: {path} has the label {largest}, labels are 0 to 9; is this CIFAR-10?")
    return records


def _moments(images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and standard deviation, (3, 1, 1).

    They come from histograms: exact, in little memory.
    """
    values = np.arange(256)
    moments = []
    for channel in range(3):
        counts = sum(np.bincount(part[:, channel].ravel(), minlength=256) for part in np.split(images, len(TRAIN)))
        mean = float(np.average(values, weights=counts))
        moments.append((mean, float(np.average((values - mean) ** 2, weights=counts)) ** 0.5))
    mean_C, deviation_C = torch.tensor(moments, dtype=torch.float32).T
    return mean_C[:, None, None], deviation_C[:, None, None]
