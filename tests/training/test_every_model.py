"""The kit that every model passes: sizes by formula, roles, training, and stacks."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.training.layers import parameterize, tagged
from hptransfer.training.loop import Stack, train
from hptransfer.training.models._base import MODELS
from tests.training.settings import small

NAMES = MODELS.names()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "depth"), [(32, 1), (64, 3)])
def test_parameters_and_flops_are_what_the_formulas_say(name: str, width: int, depth: int) -> None:
    config = MODELS.get(name)(name=name, width=width, depth=depth)
    shape = {"vocabulary": 50, "sequence": 24}
    model = config.build(trials=1, **shape)
    assert sum(p.numel() for p in model.parameters()) == config.num_params(**shape)
    parameterize(model, small().rules(), ratio=1.0, seeds=[0])
    indices = torch.randint(50, (3, 24))
    # The counter knows attention only as the matrix products that it is made of.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(indices).sum().backward()
    assert counter.get_total_flops() == pytest.approx(config.flops_per_token(**shape) * indices.numel(), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_role(name: str) -> None:
    model = MODELS.get(name)(name=name, width=32, depth=2).build(trials=2, vocabulary=50, sequence=24)
    assert len(list(tagged(model))) == len(list(model.parameters()))


def test_a_parameter_without_a_role_is_an_error() -> None:
    model = small().model.build(trials=1, vocabulary=50, sequence=24)
    model.stray = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(AssertionError, match="without a role: stray"):
        list(tagged(model))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    run = small(model=MODELS.get(name)(name=name, width=32, depth=2))
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None
    assert result.loss < result.initial_loss - 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_stack_gives_each_trial_the_numbers_that_it_has_alone(name: str) -> None:
    """Float64: what is left is the order of summation in a batched matrix multiply."""
    runs = [
        small(
            model=MODELS.get(name)(name=name, width=64, depth=2),
            optimizer=dataclasses.replace(small().optimizer, lr=lr, weight_decay=decay),
        )
        for lr, decay in ((2.0**-8, 0.0), (2.0**-6, 0.1), (2.0**-5, 0.3))
    ]
    seeds = [0, 1, 2]
    data = runs[0].data.load()
    together = _losses(runs, seeds, data)
    alone = torch.stack([_losses([run], [seed], data)[:, 0] for run, seed in zip(runs, seeds, strict=True)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)
    for first, second in itertools.combinations(range(3), 2):  # the control: the trials do differ
        assert (alone[-1, first] - alone[-1, second]).abs() > 1e-3


def _losses(runs: list, seeds: list[int], data: object) -> torch.Tensor:
    stack = Stack(runs, seeds, vocabulary=256, device="cpu", dtype=torch.float64)
    steps = [data.batch(seed=0, step=step, batch=2, sequence=32) for step in range(50)]
    return torch.stack([stack.step(*batch, 1.0) for batch in steps])
