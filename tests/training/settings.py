"""A small run to change one thing of."""

import dataclasses
from typing import Any

from hptransfer.training.config import Base, RunConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers.adamw import AdamW


def small(*, lr: float = 2.0**-6, width: int = 32, depth: int = 2, **changes: Any) -> RunConfig:
    run = RunConfig(
        base=Base(width=32),
        tokens=4096,
        batch=2,
        sequence=32,
        validation_windows=16,
        model=TransformerConfig(width=width, depth=depth, head_dim=16),
        optimizer=AdamW(lr=lr, weight_decay=0.1),
        data=StdlibConfig(),
    )
    return dataclasses.replace(run, **changes)
