"""Contract kit of the datasets: shapes, repeatable batches, fixed held-out examples."""

from __future__ import annotations

import torch
from torch import Tensor

from hptransfer.training.datasets import SQUARED, TOKENS, DataConfig, Dataset

NUM_EXAMPLES = 6


def sequence_of(config: DataConfig) -> int:
    """Return a small number of tokens of an example; 1 without positions."""
    return 16 if config.shape(1).kind == TOKENS else 1


def check_shapes(config: DataConfig) -> None:
    """Check that batches and held-out examples have the declared shape."""
    sequence = sequence_of(config)
    shape, data = config.shape(sequence), config.load()
    for source, (inputs, targets) in (
        ("batch", data.batch(seed=1, step=2, batch=NUM_EXAMPLES, sequence=sequence)),
        ("validation", data.validation(windows=NUM_EXAMPLES, sequence=sequence)),
    ):
        where = f"{config.name}.{source}"
        expected = torch.int64 if shape.kind == TOKENS else torch.float32
        _check_tensor(f"{where}, inputs", inputs, (NUM_EXAMPLES, *shape.inputs), expected)
        if shape.loss == SQUARED:
            _check_tensor(f"{where}, targets", targets, (NUM_EXAMPLES, shape.outputs), torch.float32)
        else:
            _check_tensor(f"{where}, targets", targets, (NUM_EXAMPLES, shape.sequence), torch.int64)
            assert int(targets.min()) >= 0, f"{where}: targets must be at least 0"
            assert int(targets.max()) < shape.outputs, f"{where}: targets must be below {shape.outputs}"
        if shape.kind == TOKENS:
            assert int(inputs.max()) < shape.vocabulary, f"{where}: tokens must be below {shape.vocabulary}"


def _check_tensor(where: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert tuple(tensor.shape) == shape, f"{where}: shape must be {shape}, got {tuple(tensor.shape)}"
    assert tensor.dtype == dtype, f"{where}: type must be {dtype}, got {tensor.dtype}"


SEEDS_AND_STEPS = ((3, 7), (7, 3), (3, 8), (4, 7), (0, 0), (1, 0), (0, 1))
"""Seeds and steps whose batches must differ."""


def check_batches_repeat(config: DataConfig) -> None:
    """Check that a batch depends on seed and step alone.

    Two loads are compared. Other steps and seeds must give other examples.
    """
    sequence, data, again = sequence_of(config), config.load(), config.load()

    def content(source: Dataset, seed: int, step: int) -> tuple[bytes, ...]:
        parts = source.batch(seed=seed, step=step, batch=64, sequence=sequence)
        return tuple(part.numpy().tobytes() for part in parts)

    assert content(data, 3, 7) == content(again, 3, 7), f"{config.name}: the same seed and step must give one batch"
    distinct = len({content(data, *seed_and_step) for seed_and_step in SEEDS_AND_STEPS})
    assert distinct == len(SEEDS_AND_STEPS), (
        f"{config.name}: {len(SEEDS_AND_STEPS)} seeds and steps gave {distinct} batches"
    )


def check_validation_is_fixed(config: DataConfig) -> None:
    """Check that held-out examples and fingerprint are those of any load."""
    sequence, data, again = sequence_of(config), config.load(), config.load()
    assert data.fingerprint == again.fingerprint, f"{config.name}: two loads must have one fingerprint"
    held_out = [loaded.validation(windows=NUM_EXAMPLES, sequence=sequence) for loaded in (data, again)]
    for first, second in zip(*held_out, strict=True):
        assert torch.equal(first, second), f"{config.name}: held-out examples must be fixed"


CHECKS = (check_shapes, check_batches_repeat, check_validation_is_fixed)
