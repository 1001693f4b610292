"""muP against microsoft/mup, at four times the base width.

In float64 from the same initial weights.

That package neither scales Adam's epsilon with width nor is there decay here; an epsilon of 1e-30 is far below the root
of any squared gradient whatever its scale.
"""

import dataclasses
from collections.abc import Callable

import mup
import pytest
import torch
from torch import nn

from hptransfer.training.config import Base, RunConfig
from hptransfer.training.optimizers import OptimizerConfig
from hptransfer.training.optimizers.adamw import AdamWConfig
from hptransfer.training.optimizers.sgd import SgdConfig
from hptransfer.training.schedules import Schedule
from hptransfer.training.stack import Stack
from tests.support.plain import PlainMlp, PlainTransformer, batches, copy_weights, plain_losses, stack_losses
from tests.support.settings import of_model

BASE, WIDTH = 32, 128
PLAIN = Schedule(shape="constant", warmup=0)
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SGD = {"lr": 0.05, "momentum": 0.9}
ADAM = {"lr": 2.0**-7, "betas": (0.9, 0.95), "eps": 1e-30}
OPTIMIZERS: dict[str, tuple[OptimizerConfig, dict[str, Make]]] = {
    "sgd": (
        SgdConfig(**SGD),
        {"mup": lambda weights: mup.MuSGD(weights, **SGD), "torch": lambda weights: torch.optim.SGD(weights, **SGD)},
    ),
    "adam": (
        AdamWConfig(lr=2.0**-7, beta1=0.9, beta2=0.95, eps=1e-30),
        {
            "mup": lambda weights: mup.MuAdam(weights, **ADAM),
            "torch": lambda weights: torch.optim.Adam(weights, **ADAM),
        },
    ),
}
MODELS = ("mlp", "transformer", "tied transformer")
every_model = pytest.mark.parametrize("model", MODELS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def our_run(model: str, optimizer: OptimizerConfig) -> RunConfig:
    options = {"biases": True} if model == "mlp" else {"tied": model.startswith("tied")}
    run = of_model(model.split()[-1], width=WIDTH, depth=3 if model == "mlp" else 2, **options)
    return dataclasses.replace(run, base=Base(width=BASE), optimizer=optimizer, schedule=PLAIN)


def their_model(run: RunConfig, model: str) -> nn.Module:
    """Return the plain model with the mup package's readout.

    The package infers growing sizes from the base and a second width.
    """

    def build(width: int) -> nn.Module:
        if model == "mlp":
            return PlainMlp(
                [run.shape.inputs[1] * run.shape.inputs[2], width, width, width, run.shape.outputs],
                biases=True,
                readout=mup.MuReadout,
            )
        tied = lambda weight: mup.MuSharedReadout(weight, bias=False, output_mult=BASE**-0.5)  # noqa: E731
        return PlainTransformer(
            vocabulary=run.shape.vocabulary,
            sequence=run.sequence,
            width=width,
            depth=2,
            head_dim=16,
            readout=mup.MuReadout,
            shared=tied if model.startswith("tied") else None,
        )

    wide = build(WIDTH)
    mup.set_base_shapes(wide, build(BASE), delta=build(2 * BASE))
    return wide.double()


def both_losses(model: str, name: str, *, ours: str = "mup", theirs: str = "mup") -> tuple[list[float], list[float]]:
    """Return losses of both packages over 20 steps.

    `ours` and `theirs` name a parameterization, or "torch".
    """
    config, makers = OPTIMIZERS[name]
    run = our_run(model, config)
    stack = Stack([run], [0], device="cpu", dtype=torch.float64)
    other = their_model(run, model)
    copy_weights(stack, other)
    if ours != "mup":
        stack = Stack([dataclasses.replace(run, parameterization=ours)], [0], device="cpu", dtype=torch.float64)
    found = batches(run)
    return stack_losses(stack, found), plain_losses(other, [makers[theirs](list(other.parameters()))], found)


def largest_difference(losses: tuple[list[float], list[float]]) -> float:
    """Return the largest relative difference over the steps."""
    return max(abs(ours / theirs - 1) for ours, theirs in zip(*losses, strict=True))


@every_model
@every_optimizer
def test_mup_trains_as_the_mup_package_does(model: str, optimizer: str) -> None:
    losses = both_losses(model, optimizer)
    assert largest_difference(losses) < 1e-10
    assert losses[0][-1] < losses[0][0] - 0.2  # they went somewhere


@pytest.mark.parametrize("model", ["mlp", "transformer"])
@every_optimizer
def test_sp_does_not(model: str, optimizer: str) -> None:
    assert largest_difference(both_losses(model, optimizer, ours="sp")) > 1e-2


@every_model
@every_optimizer
def test_nor_does_their_model_under_torchs_optimizer(model: str, optimizer: str) -> None:
    losses = both_losses(model, optimizer, theirs="torch")
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-9)
    assert largest_difference(losses) > 1e-2
