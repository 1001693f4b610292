"""bf16: products in bfloat16, curves near float32's, stacked and alone."""

import dataclasses
from typing import Any

import pytest
import torch

from hptransfer.core.errors import ConfigError
from hptransfer.testing.small_runs import COMPARED_STEPS
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import scale_channels, scale_fwd
from hptransfer.training.loop import train
from hptransfer.training.models import MODELS
from hptransfer.training.models._blocks import rotate
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.model_cases import CALM_BF16, CASES, IDS, STACKED_BF16, alone, stacked, trials
from tests.support.settings import small
from tests.support.slow import slow_except

# Of a loss against float32's: so many nats, and as much of it.
AGAINST_FLOAT32 = 1e-2
LONG = 50
"""Steps of the slow variants."""


def in_bf16(runs: list[RunConfig]) -> list[RunConfig]:
    return [dataclasses.replace(run, precision="bf16") for run in runs]


def assert_close_curves(runs: list[RunConfig], steps: int = COMPARED_STEPS) -> None:
    """Stacked as alone, and near what float32 gives but not that, at every step."""
    for run in runs:
        run.optimizer.lr *= CALM_BF16
    together, apart, full = (
        train_them(given, steps=steps)
        for train_them, given in ((stacked, in_bf16(runs)), (alone, in_bf16(runs)), (stacked, runs))
    )
    assert together.dtype == torch.float32
    assert ((together / apart - 1).abs().amax(dim=0) < STACKED_BF16).all()
    torch.testing.assert_close(together, full, rtol=AGAINST_FLOAT32, atol=AGAINST_FLOAT32)
    assert ((together / full - 1).abs().amax(dim=0) > 1e-6).all()


@pytest.mark.parametrize("model", slow_except(MODELS.names(), "mlp", "transformer"))
def test_every_model(model: str) -> None:
    assert_close_curves(trials(model, {}, "adamw"))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "options"), CASES, ids=IDS)
def test_every_model_for_fifty_steps(model: str, options: dict[str, Any]) -> None:
    assert_close_curves(trials(model, options, "adamw"), LONG)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer_for_fifty_steps(optimizer: str) -> None:
    assert_close_curves(trials("mlp", {}, optimizer), LONG)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer(optimizer: str) -> None:
    assert_close_curves(trials("mlp", {}, optimizer))


def test_umup() -> None:
    assert_close_curves(
        [dataclasses.replace(run, parameterization="umup") for run in trials("transformer", {}, "adamw")]
    )


def test_weights_gradients_and_the_optimizers_state_stay_in_float32() -> None:
    run = dataclasses.replace(small(), precision="bf16")
    stack = Stack([run, run], [0, 1], device="cpu")
    seen: list[torch.dtype] = []
    stack.model.blocks[0].mlp.up.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    stack.model.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = run.data.load().batch(seed=0, step=0, batch=2, sequence=run.sequence)
    stack.step(*batch, 20)
    assert seen == [torch.bfloat16, torch.float32], "a matrix product, and the residual stream"
    assert {weight.dtype for weight in stack.model.parameters()} == {torch.float32}
    assert {weight.grad.dtype for weight in stack.model.parameters() if weight.grad is not None} == {torch.float32}
    state = [value for optimizer in stack.optimizers for one in optimizer.state.values() for value in one.values()]
    assert {value.dtype for value in state} == {torch.float32}


def test_a_held_out_loss_is_computed_as_the_training_loss_is() -> None:
    run = small()
    data = run.data.load()
    (plain,), (narrow,) = train([run], [0], data), train(in_bf16([run]), [0], data)
    assert plain.loss is not None
    assert narrow.loss == pytest.approx(plain.loss, rel=AGAINST_FLOAT32)
    assert narrow.loss != plain.loss


def test_numbers_of_each_trial_are_not_rounded_to_bfloat16() -> None:
    """One number for all trials is not; 0.3 would become 0.3008."""
    x = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    numbers = torch.tensor([0.3, 0.3], dtype=torch.float64)
    assert torch.equal(scale_fwd(x, numbers), x * 0.3)
    assert torch.equal(scale_channels(x, numbers), x * 0.3)
    assert not torch.equal(x * numbers.bfloat16().view(-1, 1, 1, 1), x * 0.3)


def test_rotary_positions_are_not_rounded_to_bfloat16() -> None:
    """Which has no odd number above 256."""
    x = torch.randn(1, 1, 300, 2, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(x.bfloat16()).float(), rotate(x), rtol=0, atol=0.03)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.precision: unknown precision 'bf61'\. Did you mean 'bf16'"):
        dataclasses.replace(small(), precision="bf61").check()
