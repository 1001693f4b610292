"""Small runs as starting points of tests."""

import dataclasses
from typing import Any

from hptransfer.training.config import Base, RunConfig
from hptransfer.training.datasets import FEATURES, IMAGES, TOKENS, DataShape
from hptransfer.training.datasets.digits import DigitsConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.models import MODELS, ModelConfig
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers.adamw import AdamWConfig

SHAPES = {
    TOKENS: DataShape(kind=TOKENS, inputs=(24,), vocabulary=50, outputs=50),
    IMAGES: DataShape(kind=IMAGES, inputs=(3, 8, 8), outputs=7),
    FEATURES: DataShape(kind=FEATURES, inputs=(20,), outputs=7),
}


def small(*, lr: float = 2.0**-6, width: int = 32, depth: int = 2, **changes: Any) -> RunConfig:
    run = RunConfig(
        base=Base(width=32),
        tokens=4096,
        batch=2,
        sequence=32,
        validation_windows=16,
        model=TransformerConfig(width=width, depth=depth, head_dim=16),
        optimizer=AdamWConfig(lr=lr, weight_decay=0.1),
        data=StdlibConfig(),
    )
    return dataclasses.replace(run, **changes)


def of_model(name: str, *, width: int = 32, depth: int = 2, lr: float = 2.0**-6, **options: Any) -> RunConfig:
    """Return a small run of any model, on data that it accepts."""
    model: ModelConfig = MODELS.get(name)(name=name, width=width, depth=depth, **options)
    if TOKENS in model.takes:
        return small(lr=lr, model=model)
    if name == "resnet":
        model = dataclasses.replace(model, width=width // 2)  # whose width is counted in channels
    return small(lr=lr, model=model, data=DigitsConfig(), sequence=1, batch=32, tokens=32 * 60, validation_windows=64)
