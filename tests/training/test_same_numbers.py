"""Trials have equal numbers stacked and alone, in both types.

For every model and every optimizer.

Losses are compared, not weights: those whose gradient is nothing but rounding, such as key biases, drift under an
optimizer that takes signs.
"""

import dataclasses
from typing import Any

import pytest
import torch

from hptransfer.core.errors import ConfigError
from hptransfer.testing.small_runs import COMPARED_STEPS, OWN_SETTINGS, assert_stack_equals_trials
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.model_cases import CASES, IDS, SEEDS, stacked, trials
from tests.support.settings import of_model

LONG = 50
"""Steps of the slow variants."""
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
# Muon's iteration runs in bfloat16, and inverse powers of a matrix enlarge what rounding does to it.
BOUNDS_OF = {name: {**BOUNDS, torch.float32: 1e-4} for name in ("muon", "shampoo", "kfac")}
every_type = pytest.mark.parametrize("dtype", BOUNDS, ids=["float32", "float64"])


def assert_same_numbers(runs: list[RunConfig], dtype: torch.dtype, bound: float, steps: int = COMPARED_STEPS) -> None:
    assert_stack_equals_trials(runs, SEEDS, rtol=bound, dtype=dtype, steps=steps)


def bounds(optimizer: str) -> dict[torch.dtype, float]:
    return BOUNDS_OF.get(optimizer, BOUNDS)


@pytest.mark.slow
@every_type
@pytest.mark.parametrize(("model", "options"), CASES, ids=IDS)
def test_every_model(model: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Its small version, in float64, is in test_every_model."""
    assert_same_numbers(trials(model, options, "adamw"), dtype, BOUNDS[dtype], LONG)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer(optimizer: str) -> None:
    """In float32; in float64 they are in test_every_optimizer."""
    assert_same_numbers(trials("mlp", {}, optimizer), torch.float32, bounds(optimizer)[torch.float32])


@pytest.mark.slow
@every_type
@pytest.mark.parametrize("model", ["mlp", "transformer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer_for_fifty_steps(optimizer: str, model: str, dtype: torch.dtype) -> None:
    assert_same_numbers(trials(model, {}, optimizer), dtype, bounds(optimizer)[dtype], LONG)


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
    assert_same_numbers(runs, dtype, bounds(optimizer)[dtype], LONG)


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
        assert numbers <= OWN_SETTINGS.keys() | {"lr"}, name


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
