"""Contract of every model, with its options: sizes, roles, training, stacks."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig
from hptransfer.training.datasets import TOKENS, Dataset, DataShape
from hptransfer.training.layers import tagged
from hptransfer.training.loop import train
from hptransfer.training.models import MODELS
from hptransfer.training.stack import Stack
from tests.support.settings import SHAPES, of_model, small

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


def inputs(shape: DataShape, count: int) -> torch.Tensor:
    return torch.randint(50, (count, 24)) if shape.kind == TOKENS else torch.randn(count, *shape.inputs).double()


@every_model
@pytest.mark.parametrize(("width", "depth"), [(32, 2), (64, 4)])
def test_parameters_and_flops_are_what_the_formulas_say(
    name: str, options: dict[str, Any], width: int, depth: int
) -> None:
    run = of_model(name, width=width, depth=depth, **options)
    for kind in run.model.takes:
        shape = SHAPES[kind]
        model = run.model.build(trials=1, shape=shape).double()  # for which experts' products are ones that it counts
        assert sum(p.numel() for p in model.parameters()) == run.model.num_params(shape)
        for weight in model.parameters():
            torch.nn.init.normal_(weight)
        # The counter knows attention only as the matrix products that it is made of.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(inputs(shape, 3)).sum().backward()
        assert counter.get_total_flops() == pytest.approx(3 * run.model.flops(shape), rel=1e-9)


@every_model
def test_every_parameter_has_a_role(name: str, options: dict[str, Any]) -> None:
    run = of_model(name, **options)
    model = run.model.build(trials=2, shape=run.shape)
    assert len(list(tagged(model))) == len(list(model.parameters()))


def test_a_parameter_without_a_role_is_an_error() -> None:
    model = small().model.build(trials=1, shape=small().shape)
    model.stray = torch.nn.Parameter(torch.zeros(3))
    model.norm.other = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match=r"without a role: stray, norm\.other; a layer of .* must own each"):
        list(tagged(model))


@every_model
def test_the_loss_falls(name: str, options: dict[str, Any]) -> None:
    run = of_model(name, lr=2.0**-7 if name == "resnet" else 2.0**-6, **options)
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None
    assert result.loss < result.initial_loss - 0.4


@every_model
def test_a_stack_gives_each_trial_the_numbers_that_it_has_alone(name: str, options: dict[str, Any]) -> None:
    """In float64 only the order of summation in batched products differs."""
    runs = []
    for lr, decay in ((2.0**-8, 0.0), (2.0**-6, 0.1), (2.0**-5, 0.3)):
        run = of_model(name, width=64, lr=lr, **options)
        runs.append(dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, weight_decay=decay)))
    seeds = [0, 1, 2]
    data = runs[0].data.load()
    together = losses(runs, seeds, data)
    alone = torch.stack([losses([run], [seed], data)[:, 0] for run, seed in zip(runs, seeds, strict=True)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)
    for first, second in itertools.combinations(range(3), 2):  # the control: the trials do differ
        assert (alone[-1, first] - alone[-1, second]).abs() > 1e-4


def losses(runs: list[RunConfig], seeds: list[int], data: Dataset, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return losses of a stack's first fifty steps, (steps, trials)."""
    run = runs[0]
    stack = Stack(runs, seeds, device="cpu", dtype=dtype)
    batches = [data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence) for step in range(50)]
    return torch.stack([stack.step(*batch, step) for step, batch in enumerate(batches)])


@every_model
def test_a_trial_that_leaves_a_stack_leaves_the_others_as_they_were(name: str, options: dict[str, Any]) -> None:
    """Control: without the optimizer's memory steps differ by more than rounding."""
    runs = [of_model(name, lr=lr, **options) for lr in (2.0**-6, 2.0**-5)]
    data = runs[0].data.load()
    batches = [data.batch(seed=0, step=step, batch=4, sequence=runs[0].sequence) for step in range(20)]
    whole, cut = (Stack(runs, [0, 0], device="cpu", dtype=torch.float64) for _ in range(2))
    for step, batch in enumerate(batches[:10]):
        whole.step(*batch, step)
        cut.step(*batch, step)
    cut.keep([1])
    assert cut.alive == [1]
    expected = [whole.step(*batch, step)[1].item() for step, batch in enumerate(batches[10:], start=10)]
    found = [cut.step(*batch, step)[0].item() for step, batch in enumerate(batches[10:], start=10)]
    assert found == pytest.approx(expected, rel=1e-10)


@every_model
def test_each_trial_has_its_own_constants(name: str, options: dict[str, Any]) -> None:
    """Multipliers, initial spreads and branch factors differ by trial."""
    runs = [of_model(name, **options) for _ in range(2)]
    runs[1].constants.output.multiplier = 3.0
    runs[1].constants.hidden.init = 0.5
    runs[1].branch.multiplier = 0.25
    data = runs[0].data.load()
    batch = data.batch(seed=0, step=0, batch=4, sequence=runs[0].sequence)
    stack = Stack(runs, [0, 0], device="cpu", dtype=torch.float64)
    together = [stack.step(*batch, step) for step in range(3)][-1]
    alone = [Stack([run], [0], device="cpu", dtype=torch.float64) for run in runs]
    for trial, one in enumerate(alone):
        assert together[trial].item() == pytest.approx(
            [one.step(*batch, step).item() for step in range(3)][-1], rel=1e-10
        )
    assert together[0].item() != pytest.approx(together[1].item(), rel=1e-6)
