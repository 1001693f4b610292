"""Reference numbers: loss and parameters of models and optimizers after two steps."""

import dataclasses

import pytest
import torch

from hptransfer.training.config import RunConfig
from hptransfer.training.datasets import TOKENS
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.settings import of_model

# By model, trained with AdamW: the loss after two steps, and the checksum of the parameters.
OF_MODELS: dict[str, tuple[float, float]] = {
    "mlp": (2.11863065, 620.220466),
    "moe": (4.62200975, 31937.0843),
    "resmlp": (1.41575137, 839.456963),
    "resnet": (1.9567644, 549.166268),
    "transformer": (4.94348834, 14648.5317),
    "vit": (1.93197866, 4823.4925),
}
# By optimizer, training the MLP.
OF_OPTIMIZERS: dict[str, tuple[float, float]] = {
    "adafactor": (2.37810157, 620.389473),
    "adam_atan2": (2.19825535, 620.677336),
    "adamw": (2.11861184, 620.635703),
    "kfac": (2.40643351, 619.660756),
    "lion": (2.47244854, 620.863883),
    "muon": (2.19468415, 620.986669),
    "sgd": (2.30778031, 620.365696),
    "shampoo": (2.34901413, 619.998903),
}
IF_MEANT = "if this change of numbers was meant, replace the constant and say so under Numerics in CHANGELOG.md"


def after_two_steps(run: RunConfig) -> tuple[float, float]:
    """Return loss and parameters' checksum after two steps.

    Both steps have the same batch of random numbers.
    """
    random = torch.Generator().manual_seed(0)
    stack = Stack([run], [0], device="cpu")
    shape = run.shape
    if shape.kind == TOKENS:
        inputs = torch.randint(shape.vocabulary, (2, *shape.inputs), generator=random)
        targets = torch.randint(shape.outputs, (2, *shape.inputs), generator=random)
    else:
        inputs = torch.randn(8, *shape.inputs, generator=random)
        targets = torch.randint(shape.outputs, (8, 1), generator=random)
    for step in range(2):
        stack.step(inputs, targets, step)
    with torch.no_grad():
        loss = float(stack.losses(inputs, targets).double().mean())
        # Weighted by place, so that entries that change places change the sum.
        entries = torch.cat([weight.detach().double().abs().flatten() for weight in stack.model.parameters()])
        checksum = float(entries @ torch.linspace(1, 2, len(entries), dtype=torch.float64))
    return loss, checksum


def check(run: RunConfig, constants: dict[str, tuple[float, float]], name: str) -> None:
    numbers = after_two_steps(run)
    assert name in constants, f"add {name!r}: {numbers}"
    assert numbers == pytest.approx(constants[name], rel=1e-5), f"{name!r}: {numbers}; {IF_MEANT}"


@pytest.mark.parametrize("name", MODELS.names())
def test_every_models_numbers_are_those_of_before(name: str) -> None:
    check(of_model(name), OF_MODELS, name)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizers_numbers_are_those_of_before(name: str) -> None:
    check(dataclasses.replace(of_model("mlp"), optimizer=OPTIMIZERS.get(name)(name=name)), OF_OPTIMIZERS, name)
