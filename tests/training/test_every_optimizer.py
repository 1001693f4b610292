"""Contract of every optimizer: training, groups, stacks, and its update law."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role
from hptransfer.testing import optimizers
from hptransfer.testing.optimizers import optimizer_config as optimizer
from hptransfer.testing.optimizers import required_power, run_with
from hptransfer.testing.small_runs import first_losses as losses
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.slow import slow_except

NAMES = OPTIMIZERS.names()
every_optimizer = pytest.mark.parametrize("name", NAMES)
# Muon's iteration runs in bfloat16 whatever the weights are.
TOLERANCE = {"muon": 1e-3, "shampoo": 1e-6, "kfac": 1e-6}


@every_optimizer
@pytest.mark.parametrize("model", slow_except(["mlp", "transformer"], "mlp"))
def test_the_loss_falls_at_its_default_rate(name: str, model: str) -> None:
    optimizers.check_loss_falls(name, model)


@every_optimizer
def test_each_trial_of_a_stack_has_its_own_rate_and_decay(name: str) -> None:
    optimizers.check_stacking(name, TOLERANCE.get(name, 1e-10))


@every_optimizer
def test_a_trial_that_leaves_takes_nothing_of_the_others_memory(name: str) -> None:
    optimizers.check_leaving(name, TOLERANCE.get(name, 1e-9))


def test_each_trial_of_a_stack_has_its_own_floor() -> None:
    """A floor above the weights makes every step larger.

    The package has one floor per optimizer, not per group.
    """
    runs = [run_with("adafactor", floor=floor) for floor in (1e-3, 0.5, 1e-3)]
    data = runs[0].data.load()
    together = losses(runs, [0, 0, 0], data)
    alone = torch.cat([losses([run], [0], data) for run in runs[:2]], dim=1)
    torch.testing.assert_close(together, alone[:, [0, 1, 0]], rtol=1e-10, atol=0)
    assert (alone[-1, 0] - alone[-1, 1]).abs() > 1e-3
    stack = Stack(runs, [0, 0, 0], device="cpu", dtype=torch.float64)
    batches = [data.batch(seed=0, step=step, batch=32, sequence=1) for step in range(20)]
    whole = [stack.step(*batch, step) for step, batch in enumerate(batches)]
    stack = Stack(runs, [0, 0, 0], device="cpu", dtype=torch.float64)
    for step in range(10):
        stack.step(*batches[step], step)
    stack.keep([0, 2])
    for step in range(10, 20):
        torch.testing.assert_close(stack.step(*batches[step], step), whole[step][[0, 2]], rtol=1e-10, atol=0)


@every_optimizer
def test_decay_means_what_it_says(name: str) -> None:
    optimizers.check_decay(name)


@every_optimizer
def test_bad_settings_are_refused(name: str) -> None:
    optimizers.check_refusals(name)


def test_muon_refuses_a_hidden_tensor_that_is_no_matrix() -> None:
    group = {"params": [torch.zeros(5)], "role": Role.HIDDEN, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    with pytest.raises(ConfigError, match=r"has shape \(5,\); give it the role vector, which AdamW trains"):
        optimizer("muon").build([group])


@pytest.fixture(scope="module")
def slopes() -> Callable[[str], dict[Role, float]]:
    """Measured slopes by optimizer; K-FAC's at larger widths, with smaller finite-width terms."""
    return cache(
        lambda name: optimizers.measured_slopes(name, (128, 256, 512) if name == "kfac" else optimizers.WIDTHS)
    )


@every_optimizer
def test_the_declared_law_is_the_measured_one(name: str, slopes: Callable[[str], dict[Role, float]]) -> None:
    optimizers.check_law(name, slopes(name))


def test_a_wrong_law_is_seen(slopes: Callable[[str], dict[Role, float]]) -> None:
    sgd, adam = OPTIMIZERS.get("sgd")(), OPTIMIZERS.get("adamw")()
    assert abs(slopes("adamw")[Role.HIDDEN] + required_power(sgd.law(Role.HIDDEN), Role.HIDDEN)) > 0.5
    assert abs(slopes("sgd")[Role.INPUT] + required_power(adam.law(Role.INPUT), Role.INPUT)) > 0.5


def test_adam_atan2_does_not_know_the_losses_scale() -> None:
    weights = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    config = optimizer("adam_atan2")
    for weight, scale in zip(weights, (1.0, 1e-12), strict=True):
        group = {"params": [weight], "lr": 0.1, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95}
        (one,) = config.build([group])
        for power in range(4):
            weight.grad = scale * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) ** power
            one.step()
    assert torch.equal(weights[0], weights[1])


def test_adam_atan2_is_adam_for_small_ratios() -> None:
    """atan2(m, r) is m / r for small m / r.

    Under noise with a small mean the two take the same path.
    """
    gradients = torch.randn(200, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for name in ("adamw", "adam_atan2"):
        weight = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
        group = {"params": [weight], "lr": 1e-3, "weight_decay": 0.0, "beta1": 0.99, "beta2": 0.999, "eps": 0.0}
        (one,) = optimizer(name).build([group])
        for gradient in gradients:
            weight.grad = gradient
            one.step()
        ends.append(weight.detach())
    assert (ends[0] - ends[1]).norm() < 0.05 * ends[0].norm()
