"""Contract of every optimizer: training, groups, stacks, and its update law."""

import dataclasses

import numpy as np
import pytest
import torch

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import PARAMETERIZATIONS, Role, UpdateLaw
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.loop import train
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig
from hptransfer.training.stack import Stack
from tests.support.settings import of_model
from tests.training.test_every_model import losses

NAMES = OPTIMIZERS.names()
every_optimizer = pytest.mark.parametrize("name", NAMES)
# Muon's iteration runs in bfloat16 whatever the weights are.
TOLERANCE = {"muon": 1e-3, "shampoo": 1e-6, "kfac": 1e-6}


def optimizer(name: str, **settings: object) -> OptimizerConfig:
    return OPTIMIZERS.get(name)(name=name, **settings)


def run_with(name: str, model: str = "mlp", width: int = 32, depth: int = 3, **settings: object) -> RunConfig:
    return dataclasses.replace(of_model(model, width=width, depth=depth), optimizer=optimizer(name, **settings))


@every_optimizer
@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_the_loss_falls_at_its_default_rate(name: str, model: str) -> None:
    run = run_with(name, model)
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None
    assert result.loss < result.initial_loss - 0.5


@every_optimizer
def test_each_trial_of_a_stack_has_its_own_rate_and_decay(name: str) -> None:
    lr = optimizer(name).lr
    runs = [run_with(name, lr=lr * factor, weight_decay=decay) for factor, decay in ((1, 0.0), (0.25, 0.3), (0.5, 1.0))]
    data = runs[0].data.load()
    together = losses(runs, [0, 1, 2], data)
    alone = torch.stack([losses([run], [seed], data)[:, 0] for seed, run in enumerate(runs)], dim=1)
    torch.testing.assert_close(together, alone, rtol=TOLERANCE.get(name, 1e-10), atol=0)
    assert (alone[-1, 0] - alone[-1, 1]).abs() > 1e-3


@every_optimizer
def test_a_trial_that_leaves_takes_nothing_of_the_others_memory(name: str) -> None:
    runs = [run_with(name, lr=optimizer(name).lr * factor) for factor in (0.5, 0.25)]
    data = runs[0].data.load()
    batches = [data.batch(seed=0, step=step, batch=8, sequence=1) for step in range(12)]
    whole, cut = (Stack(runs, [0, 0], device="cpu", dtype=torch.float64) for _ in range(2))
    for step, batch in enumerate(batches[:6]):
        whole.step(*batch, step)
        cut.step(*batch, step)
    cut.keep([1])
    expected = [whole.step(*batch, step)[1].item() for step, batch in enumerate(batches[6:], start=6)]
    found = [cut.step(*batch, step)[0].item() for step, batch in enumerate(batches[6:], start=6)]
    assert found == pytest.approx(expected, rel=TOLERANCE.get(name, 1e-9))


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
@pytest.mark.parametrize(("decay", "left"), [("coupled", 1 - 0.5e-3), ("independent", 0.5), ("timescale", 1 - 1 / 30)])
def test_decay_means_what_it_says(name: str, decay: str, left: float) -> None:
    """Measure one step at the peak on a weight without a gradient."""
    kept = {}
    for weight_decay in (0.0, 0.5):
        run = run_with(name, lr=1e-3, weight_decay=weight_decay, decay=decay)
        run = dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, warmup=0, shape="constant"))
        stack = Stack([run], [0], device="cpu", dtype=torch.float64)
        before = [weight.detach().clone() for weight in stack.model.parameters()]
        inputs, targets = run.data.load().batch(seed=0, step=0, batch=8, sequence=1)
        stack.step(inputs, targets, 0)
        kept[weight_decay] = [(w.detach(), b) for w, b in zip(stack.model.parameters(), before, strict=True)]
    for (decayed, before_), (plain, _) in zip(kept[0.5], kept[0.0], strict=True):
        # Adafactor's step is relative to the weights after decay: up to a share of lr of it is its own.
        torch.testing.assert_close(plain - decayed, (1 - left) * before_, rtol=1e-6, atol=(1 - left) * 5e-3)


@every_optimizer
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "run.optimizer.lr must be above 0"),
        ({"lr": float("nan")}, "run.optimizer.lr must be above 0"),
        ({"weight_decay": -1.0}, "run.optimizer.weight_decay must be at least 0"),
        ({"decay": "couple"}, "run.optimizer.decay: unknown kind of weight decay 'couple'.*coupled"),
    ],
)
def test_bad_settings_are_refused(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        optimizer(name, **settings).check("run.optimizer")


def test_muon_refuses_a_hidden_tensor_that_is_no_matrix() -> None:
    group = {"params": [torch.zeros(5)], "role": Role.HIDDEN, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    with pytest.raises(ConfigError, match=r"has shape \(5,\); give it the role vector, which AdamW trains"):
        optimizer("muon").build([group])


WIDTHS = (128, 256, 512)
FORM = "mup_table3"
LAYERS = {"layers.0": Role.INPUT, "layers.1": Role.HIDDEN, "layers.2": Role.OUTPUT}


def measured_slopes(name: str) -> dict[Role, float]:
    """Return slopes against width of a layer's own output change.

    Per unit of learning rate, after one step.
    """
    changes: dict[Role, list[float]] = {role: [] for role in LAYERS.values()}
    for width in WIDTHS:
        run = run_with(name, width=width)
        run.base, run.parameterization, run.tokens = Base(width=WIDTHS[0]), FORM, 10 * 64
        run.schedule = dataclasses.replace(run.schedule, warmup=0, shape="constant")
        stack = Stack([run] * 3, [0, 1, 2], device="cpu")
        inputs, targets = run.data.load().batch(seed=0, step=0, batch=64, sequence=1)
        taken: dict[str, torch.Tensor] = {}
        layers = dict(stack.model.named_modules())
        hooks = [
            layers[at].register_forward_hook(lambda m, i, o, at=at, to=taken: to.update({at: i[0].detach()}))
            for at in LAYERS
        ]
        before = {at: layers[at].weight.detach().clone() for at in LAYERS}
        rates = {group["role"]: group["lr"] for group in stack.groups(0)}
        stack.step(inputs, targets, 0)
        for hook in hooks:
            hook.remove()
        for at, role in LAYERS.items():
            step = (layers[at].weight.detach() - before[at]) / rates[role.value]
            changes[role].append(float((taken[at] @ step.mT).square().mean().sqrt()))
    return {role: float(np.polyfit(np.log2(WIDTHS), np.log2(found), 1)[0]) for role, found in changes.items()}


@pytest.fixture(scope="module")
def slopes() -> dict[str, dict[Role, float]]:
    return {name: measured_slopes(name) for name in NAMES}


def required(law: UpdateLaw, role: Role) -> float:
    return PARAMETERIZATIONS.get(FORM).learning_rate(role, law).total


@every_optimizer
@pytest.mark.parametrize("role", LAYERS.values())
def test_the_declared_law_is_the_measured_one(name: str, role: Role, slopes: dict[str, dict[Role, float]]) -> None:
    """The law's power cancels that of the step.

    Finite widths leave up to 0.25 at the readout.
    """
    assert slopes[name][role] == pytest.approx(-required(optimizer(name).law(role), role), abs=0.25)


def test_a_wrong_law_is_seen(slopes: dict[str, dict[Role, float]]) -> None:
    sgd, adam = OPTIMIZERS.get("sgd")(), OPTIMIZERS.get("adamw")()
    assert abs(slopes["adamw"][Role.HIDDEN] + required(sgd.law(Role.HIDDEN), Role.HIDDEN)) > 0.5
    assert abs(slopes["sgd"][Role.INPUT] + required(adam.law(Role.INPUT), Role.INPUT)) > 0.5


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
