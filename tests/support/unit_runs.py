"""Small runs under u-muP."""

import dataclasses
from typing import Any

import torch

from hptransfer.training.config import RunConfig, UnitConfig
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.schedules import Schedule
from hptransfer.training.stack import Stack
from tests.support.settings import of_model

RULES = ("adafactor", "adam_atan2", "adamw", "lion", "muon", "sgd")


def unit_run(optimizer: str = "adamw", lr: float = 2.0**-3, model: str = "transformer", **options: Any) -> RunConfig:
    run = of_model(model, width=64, depth=3, **options)
    return dataclasses.replace(
        run,
        parameterization="umup",
        optimizer=OPTIMIZERS.get(optimizer)(name=optimizer, lr=lr),
        schedule=Schedule(shape="constant", warmup=0.0),
    )


def swiglu(optimizer: str = "adamw", **unit: float) -> RunConfig:
    run = unit_run(optimizer, lr=2.0**-3 if optimizer == "adamw" else 2.0**-6, activation="swiglu")
    run.optimizer.weight_decay = 0.01 if optimizer == "adamw" else 0.0
    return dataclasses.replace(run, unit=UnitConfig(**unit))


def stacked(run: RunConfig) -> Stack:
    return Stack([run], [0], device="cpu", dtype=torch.float64)
