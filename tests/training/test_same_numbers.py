"""Trials have equal numbers stacked and alone, in both types.

For every model and every optimizer.

Losses are compared, not weights: those whose gradient is nothing but rounding, such as key biases, drift under an
optimizer that takes signs.
"""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.training.config import Base, Constants, RoleConstants, RunConfig
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.schedules import Schedule
from hptransfer.training.stack import Stack
from tests.support.settings import of_model
from tests.training.test_every_model import CASES, IDS, losses

SEEDS = (0, 1, 2)
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
# Muon's iteration runs in bfloat16, and inverse powers of a matrix enlarge what rounding does to it.
BOUNDS_OF = {name: {**BOUNDS, torch.float32: 1e-4} for name in ("muon", "shampoo", "kfac")}
# What the three trials have of their own, where their optimizer knows it.
OWN: dict[str, tuple[float, float, float]] = {
    "weight_decay": (0.0, 0.3, 0.1),
    "beta1": (0.9, 0.8, 0.95),
    "beta2": (0.95, 0.99, 0.9),
    "eps": (1e-8, 1e-6, 1e-5),
    "momentum": (0.9, 0.8, 0.95),
    "floor": (1e-3, 1e-2, 1e-4),
    "damping": (1e-2, 3e-2, 1e-1),
}
RATES = (1.0, 0.5, 0.25)
# At its optimizers' own rates a ResNet is chaotic: channels die depending on the last bit. Optimizers that
# enlarge small gradients are chaotic even at a quarter of these rates.
CALM = {("resnet", name): 1 / 4 for name in OPTIMIZERS.names()}
CALM |= {("resnet", name): 1 / 16 for name in ("adafactor", "kfac", "muon", "shampoo")}

every_type = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "float64"])


def trials(model: str, options: dict[str, Any], optimizer: str, *, width: int = 32) -> list[RunConfig]:
    """Return three trials that differ in every setting a stack allows.

    Their seeds are equal.
    """
    base = OPTIMIZERS.get(optimizer)(name=optimizer)
    known = {field.name for field in dataclasses.fields(base)}
    runs = []
    for index in range(3):
        own = {key: values[index] for key, values in OWN.items() if key in known}
        one = dataclasses.replace(base, lr=base.lr * CALM.get((model, optimizer), 1.0) * RATES[index], **own)
        constants = RoleConstants(
            hidden=Constants(multiplier=(1.0, 0.5, 0.75)[index], init=(1.0, 1.5, 0.5)[index]),
            output=Constants(lr=(1.0, 0.5, 0.25)[index]),
        )
        run = dataclasses.replace(of_model(model, width=width, **options), optimizer=one, constants=constants)
        run.branch.multiplier = (1.0, 0.8, 1.2)[index]
        run.schedule = Schedule(
            warmup=(0.1, 0.2, 0.05)[index], end=(0.0, 0.2, 0.1)[index], floor=(0.0, 0.0, 1e-4)[index]
        )
        runs.append(run)
    return runs


def stacked(runs: list[RunConfig], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return losses of a stack's first steps, (steps, trials)."""
    return losses(runs, list(SEEDS), runs[0].data.load(), dtype)


def alone(runs: list[RunConfig], dtype: torch.dtype = torch.float32) -> Tensor:
    data = runs[0].data.load()
    return torch.cat([losses([run], [seed], data, dtype) for run, seed in zip(runs, SEEDS, strict=True)], dim=1)


def assert_same_numbers(runs: list[RunConfig], dtype: torch.dtype, bound: float) -> None:
    apart = alone(runs, dtype)
    torch.testing.assert_close(stacked(runs, dtype), apart, rtol=bound, atol=0)
    for first, second in itertools.combinations(range(3), 2):  # the control: the trials do differ, where two cross too
        assert (apart[-10:, first] - apart[-10:, second]).abs().max() > 100 * bound


def bounds(optimizer: str) -> dict[torch.dtype, float]:
    return BOUNDS_OF.get(optimizer, BOUNDS)


@every_type
@pytest.mark.parametrize(("model", "options"), CASES, ids=IDS)
def test_every_model(model: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    assert_same_numbers(trials(model, options, "adamw"), dtype, BOUNDS[dtype])


@every_type
@pytest.mark.parametrize("model", ["mlp", "transformer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer(optimizer: str, model: str, dtype: torch.dtype) -> None:
    assert_same_numbers(trials(model, {}, optimizer), dtype, bounds(optimizer)[dtype])


# K-FAC has no factors for what is tied or an expert's, and says so.
WITHOUT_FACTORS = ("moe", "tied")


@pytest.mark.slow
@every_type
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
@pytest.mark.parametrize(("model", "options"), CASES, ids=IDS)
def test_every_pair(model: str, options: dict[str, Any], optimizer: str, dtype: torch.dtype) -> None:
    runs = trials(model, options, optimizer)
    if optimizer == "kfac" and {model, *options}.intersection(WITHOUT_FACTORS):
        with pytest.raises(ConfigError, match="kfac has no factors for"):
            Stack(runs[:1], [0], device="cpu")
        return
    assert_same_numbers(runs, dtype, bounds(optimizer)[dtype])


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_another_rate_in_a_stack_is_seen(optimizer: str) -> None:
    """Negative control: one trial of three has a rate 1% higher."""
    runs = trials("mlp", {}, optimizer)
    other = [*runs[:2], dataclasses.replace(runs[2], optimizer=dataclasses.replace(runs[2].optimizer))]
    other[2].optimizer.lr *= 1.01
    off = (stacked(other) / stacked(runs) - 1).abs().amax(dim=0)
    assert off[:2].tolist() == [0, 0]
    assert off[2] > bounds(optimizer)[torch.float32]


def test_every_number_of_an_optimizer_is_a_trials_own() -> None:
    """The contract above must cover every setting that `shared` leaves out."""
    for name in OPTIMIZERS.names():
        numbers = {item.name for item in dataclasses.fields(OPTIMIZERS.get(name)) if item.type in (float, "float")}
        assert numbers <= OWN.keys() | {"lr"}, name


@pytest.mark.parametrize(
    "other",
    [
        {"tokens": 4096},
        {"data_seed": 1},
        {"diverged_above": 3.0},
        {"precision": "bf16"},
        {"base": Base(width=48)},
        {"parameterization": "sp"},
    ],
)
def test_what_a_stack_has_for_all_may_not_differ_in_it(other: dict[str, Any]) -> None:
    run = of_model("mlp")
    with pytest.raises(ValueError, match="must be equal in all settings that the stack shares"):
        Stack([run, dataclasses.replace(run, **other)], [0, 0], device="cpu")
