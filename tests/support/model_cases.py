"""Every model with its options, and trials of them that differ in all that one stack allows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from hptransfer.testing.small_runs import COMPARED_STEPS, differing_runs, first_losses
from hptransfer.training.config import RunConfig
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS
from tests.support.settings import of_model
from tests.support.slow import slow_except

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "transformer": [
        {"queries_per_key": 2, "activation": "swiglu", "qk_norm": True, "norm_gains": True},
        {"queries_per_key": 0, "activation": "relu2", "positions": "rotary", "attention_scale": "full"},
        {"tied": True, "zero_query": True},
        {"zero_readout": True},
    ],
    "vit": [{"patch": 4, "norm_gains": True, "qk_norm": True}],
    "mlp": [{"biases": True, "activation": "tanh"}],
    "moe": [
        {"activation": "swiglu", "granularity": 2, "norm_gains": True},
        {"experts": 6, "sparsity": 3, "activation": "relu2", "zero_readout": True},
        {"experts": 2, "sparsity": 1, "tied": True},
    ],
    "resmlp": [{"matrices": 2, "norm": True}],
    "resnet": [{"norm": "batch", "convolutions": 2, "stages": 2}],
}
CASES = [(name, options) for name in MODELS.names() for options in [{}, *OPTIONS.get(name, [])]]
IDS = [f"{name}-{'-'.join(options) or 'plain'}" for name, options in CASES]
every_model = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
# All of them, of which `make test` has those without options.
every_plain_model = pytest.mark.parametrize(
    ("name", "options"), slow_except(CASES, *[case for case in CASES if not case[1]]), ids=IDS
)

SEEDS = (0, 1, 2)
# At its optimizers' own rates a ResNet is chaotic: channels die, and whether one does depends on the last bit. Those
# that enlarge small gradients, each in its way, are so at a quarter of them still.
CALM = {("resnet", name): 1 / 4 for name in OPTIMIZERS.names()}
CALM |= {("resnet", name): 1 / 16 for name in ("adafactor", "kfac", "muon", "shampoo")}

# A bfloat16 has eight significant bits: one rounding changes a number by up to 4e-3 of it.
STACKED_BF16 = 4e-3
# Trials in bf16 that learn a batch by heart, or are on the edge of stability, enlarge what rounding does to them.
CALM_BF16 = 0.25


def trials(model: str, options: dict[str, Any], optimizer: str, *, width: int = 32) -> list[RunConfig]:
    """Three that differ in all that trials of a stack can differ in, their seeds apart."""
    base = OPTIMIZERS.get(optimizer)(name=optimizer)
    calm = dataclasses.replace(base, lr=base.lr * CALM.get((model, optimizer), 1.0))
    return differing_runs(of_model(model, width=width, **options), calm)


def stacked(runs: list[RunConfig], dtype: torch.dtype = torch.float32, steps: int = COMPARED_STEPS) -> Tensor:
    """Losses of a stack's first steps, (steps, trials)."""
    return first_losses(runs, SEEDS, runs[0].data.load(), dtype, steps)


def alone(runs: list[RunConfig], dtype: torch.dtype = torch.float32, steps: int = COMPARED_STEPS) -> Tensor:
    """Losses of trials that train one at a time, (steps, trials)."""
    data = runs[0].data.load()
    return torch.cat(
        [first_losses([run], [seed], data, dtype, steps) for run, seed in zip(runs, SEEDS, strict=True)], dim=1
    )
