"""Activation checkpointing: the same bits from less memory.

Side effects of a branch happen once.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import Residual
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.model_cases import CASES, IDS
from tests.support.settings import of_model
from tests.support.slow import slow_except

RESIDUAL = [(case, name) for case, name in zip(CASES, IDS, strict=True) if of_model(case[0]).model.residual]
every_residual_model = pytest.mark.parametrize(
    ("name", "options"), [case for case, _ in RESIDUAL], ids=[name for _, name in RESIDUAL]
)


def batches(run: RunConfig, steps: int = 3) -> list[tuple[Tensor, Tensor]]:
    data = run.data.load()
    return [data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence) for step in range(steps)]


def trained(run: RunConfig, *, checkpointing: bool) -> tuple[Stack, list[Tensor]]:
    """Return a stack of two after a few steps, and its losses."""
    run = dataclasses.replace(run, activation_checkpointing=checkpointing)
    slower = dataclasses.replace(run.optimizer, lr=run.optimizer.lr / 2)
    runs = [run, dataclasses.replace(run, optimizer=slower)]
    stack = Stack(runs, [0, 1], device="cpu")
    return stack, [stack.step(*batch, step) for step, batch in enumerate(batches(run))]


def assert_same_bits(run: RunConfig) -> None:
    (plain, expected), (again, found) = (trained(run, checkpointing=checkpointing) for checkpointing in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    for (name, one), other in zip(plain.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert torch.equal(gradient(one), gradient(other)), name
    for (name, one), other in zip(plain.model.named_buffers(), again.model.buffers(), strict=True):
        assert torch.equal(one, other), name


def gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


@every_residual_model
@pytest.mark.parametrize("precision", slow_except(["float32", "bf16"], "float32"))
def test_losses_gradients_and_buffers_are_the_same_to_the_bit(
    name: str, options: dict[str, Any], precision: str
) -> None:
    assert_same_bits(dataclasses.replace(of_model(name, **options), precision=precision))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_what_an_optimizer_takes_in_the_backward_pass_is_taken_once(optimizer: str) -> None:
    """K-FAC's moments above all."""
    run = dataclasses.replace(of_model("resnet"), optimizer=OPTIMIZERS.get(optimizer)(name=optimizer))
    assert_same_bits(run)


@pytest.mark.parametrize(("name", "options"), [("resnet", {"norm": "batch"}), ("moe", {})])
def test_the_pass_that_is_repeated_does_run_twice(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without restoring buffers, batch norm's running means would move twice."""
    calls: list[bool] = []
    run = of_model(name, **options)
    branches = sum(isinstance(module, Residual) for module in Stack([run], [0], device="cpu").model.modules())

    def restore_nothing(self: Residual) -> Any:
        calls.append(True)
        return nullcontext()

    monkeypatch.setattr(Residual, "_buffers_kept", restore_nothing)
    if name == "resnet":
        with pytest.raises(AssertionError, match="mean"):
            assert_same_bits(run)
    else:  # moves its bias in the backward pass, which there is one of
        assert_same_bits(run)
    assert len(calls) == 3 * branches


def kept(run: RunConfig, trials: int = 2) -> int:
    """Return the bytes kept for a step's backward pass, without weights."""
    stack = Stack([run] * trials, range(trials), device="cpu")
    weights = {weight.untyped_storage().data_ptr() for weight in stack.model.parameters()}
    sizes: dict[int, int] = {}
    held = []  # a storage that is freed would give its place to another

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = stack.losses(*batches(run)[0])
    losses.mean(dim=(1, 2)).sum().backward()
    return sum(sizes.values())


def without_and_with(depth: int, run: RunConfig) -> Sequence[int]:
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, depth=depth))
    return [kept(dataclasses.replace(run, activation_checkpointing=checkpointing)) for checkpointing in (False, True)]


@pytest.mark.parametrize("name", ["transformer", "vit", "moe"])
def test_a_block_keeps_two_activations_of_its_stream(name: str) -> None:
    """They are the inputs of its branches.

    Every further block keeps the same, whatever is in it.
    """
    run = of_model(name)
    (_, less), (whole_deeper, less_deeper) = without_and_with(4, run), without_and_with(8, run)
    positions = run.sequence if name != "vit" else 17
    stream = 2 * run.batch * positions * run.model.width * 4
    assert less_deeper - less == 4 * 2 * stream
    assert less_deeper < 0.3 * whole_deeper


def test_compilation_decides_itself_what_to_compute_again() -> None:
    run = dataclasses.replace(of_model("transformer"), activation_checkpointing=True, compile=True)
    with pytest.raises(
        ConfigError, match=r"cannot be combined with run\.compile, which decides itself .*; set one of them"
    ):
        run.check()


def test_a_model_without_branches_refuses_it() -> None:
    run = dataclasses.replace(of_model("mlp"), activation_checkpointing=True)
    with pytest.raises(ConfigError, match="recomputes residual branches, but run/model=mlp has none; leave it out"):
        run.check()
