"""Contract kit of the optimizers: training, stacks, settings, update law.

An optimizer outside the tree passes `check(name)` for each of `CHECKS`. Where its arithmetic is coarser than float64,
the two checks of stacks take a wider `rtol`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import PARAMETERIZATIONS, Role, UpdateLaw
from hptransfer.testing._asserting import assert_refused
from hptransfer.testing.small_runs import assert_leaving_changes_nothing, assert_stack_equals_trials, run_of_model
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.loop import train
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig
from hptransfer.training.stack import Stack

WIDTHS = (64, 128, 256)
PARAMETERIZATION = "mup_table3"
LAYERS = {"layers.0": Role.INPUT, "layers.1": Role.HIDDEN, "layers.2": Role.OUTPUT}
"""Layers of the perceptron whose output changes are measured."""
SLOPE_TOLERANCE = 0.25
"""Finite widths leave up to this much of a slope at the readout."""
DECAYED_TO = {"coupled": 1 - 0.5e-3, "independent": 0.5, "timescale": 1 - 1 / 30}
"""Share of a weight after one step at rate 1e-3 under `weight_decay` 0.5, by kind of decay."""


def optimizer_config(name: str, **settings: Any) -> OptimizerConfig:
    """Return the settings of a registered optimizer."""
    return OPTIMIZERS.get(name)(name=name, **settings)


def run_with(name: str, model: str = "mlp", width: int = 32, depth: int = 3, **settings: Any) -> RunConfig:
    """Return a small run under an optimizer with these settings."""
    return dataclasses.replace(
        run_of_model(model, width=width, depth=depth), optimizer=optimizer_config(name, **settings)
    )


def check_loss_falls(name: str, model: str = "mlp") -> None:
    """Check that the loss falls by half a nat.

    The rate is the default one, the loss the held-out one.
    """
    run = run_with(name, model)
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None and result.initial_loss is not None, (  # noqa: PT018
        f"{name} at its default rate must not diverge on {model}"
    )
    assert result.loss < result.initial_loss - 0.5, (
        f"{name} on {model}: the loss must fall from {result.initial_loss:.3f} by 0.5, got {result.loss:.3f}"
    )


def check_stacking(name: str, rtol: float = 1e-10) -> None:
    """Check that trials with different settings train as they do alone.

    They differ in rate and weight decay.
    """
    lr = optimizer_config(name).lr
    pairs = ((1.0, 0.0), (0.25, 0.3), (0.5, 1.0))
    runs = [run_with(name, lr=lr * factor, weight_decay=decay) for factor, decay in pairs]
    assert_stack_equals_trials(runs, [0, 1, 2], rtol=rtol)


def check_leaving(name: str, rtol: float = 1e-9) -> None:
    """Check that a trial keeps its own memory when another one leaves."""
    lr = optimizer_config(name).lr
    assert_leaving_changes_nothing([run_with(name, lr=lr * factor) for factor in (0.5, 0.25)], rtol=rtol)


def check_decay(name: str) -> None:
    """Check that a step shrinks weights by each kind of decay.

    A run of two weight decays is compared, so that the step itself cancels.
    """
    for decay, kept in DECAYED_TO.items():
        plain, start = _after_one_step(run_with(name, lr=1e-3, weight_decay=0.0, decay=decay))
        decayed, _ = _after_one_step(run_with(name, lr=1e-3, weight_decay=0.5, decay=decay))
        for without, with_decay, before in zip(plain, decayed, start, strict=True):
            # Adafactor's step is relative to the weights after decay: up to a share of lr of it is its own.
            atol, why = (1 - kept) * 5e-3, f"{name}: decay={decay} must leave {kept:g} of a weight"
            torch.testing.assert_close(without - with_decay, (1 - kept) * before, rtol=1e-6, atol=atol, msg=why)


def _after_one_step(run: RunConfig) -> tuple[list[Tensor], list[Tensor]]:
    """Return all weights after and before one step at the peak rate."""
    run = dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, warmup=0, shape="constant"))
    stack = Stack([run], [0], device="cpu", dtype=torch.float64)
    before = [weight.detach().clone() for weight in stack.model.parameters()]
    inputs, targets = run.data.load().batch(seed=0, step=0, batch=8, sequence=1)
    stack.step(inputs, targets, 0)
    return [weight.detach() for weight in stack.model.parameters()], before


def check_refusals(name: str) -> None:
    """Check that rates and decays out of range are refused."""
    key = "run.optimizer"
    for settings, message in (
        ({"lr": 0.0}, rf"{key}\.lr must be above 0"),
        ({"lr": float("nan")}, rf"{key}\.lr must be above 0"),
        ({"weight_decay": -1.0}, rf"{key}\.weight_decay must be at least 0"),
        ({"decay": "couple"}, rf"{key}\.decay: unknown kind of weight decay 'couple'.*coupled"),
    ):
        config = optimizer_config(name, **settings)
        assert_refused(lambda config=config: config.check(key), message, ConfigError)  # type: ignore[misc]


def check_law(name: str, slopes: dict[Role, float] | None = None) -> None:
    """Check that the declared update law is the measured one.

    The law's power of width cancels the growth of the step.

    Args:
        slopes: of `measured_slopes`, if they are known already.
    """
    for role, slope in (slopes or measured_slopes(name)).items():
        expected = -required_power(optimizer_config(name).law(role), role)
        assert abs(slope - expected) <= SLOPE_TOLERANCE, (
            f"{name}, role {role.value}: output changes per unit of rate go as width^{slope:.2f}, "
            f"but the declared law says width^{expected:.2f}"
        )


def required_power(law: UpdateLaw, role: Role) -> float:
    """Return the power of width that a law requires of the rate."""
    return PARAMETERIZATIONS.get(PARAMETERIZATION).learning_rate(role, law).total


def measured_slopes(name: str, widths: Sequence[int] = WIDTHS) -> dict[Role, float]:
    """Return slopes of output change against width, by role.

    The change is that of a layer's output per unit of learning rate, after one step of three seeds.
    """
    changes: dict[Role, list[float]] = {role: [] for role in LAYERS.values()}
    for width in widths:
        run = run_with(name, width=width)
        run.base, run.parameterization, run.tokens = Base(width=widths[0]), PARAMETERIZATION, 10 * 64
        run.schedule = dataclasses.replace(run.schedule, warmup=0, shape="constant")
        stack = Stack([run] * 3, [0, 1, 2], device="cpu")
        layers = {path: stack.model.get_submodule(path) for path in LAYERS}
        layer_inputs: dict[str, Tensor] = {}
        hooks = [layer.register_forward_hook(_keep_input(path, layer_inputs)) for path, layer in layers.items()]
        before = {path: layer.get_parameter("weight").detach().clone() for path, layer in layers.items()}
        rates = {group["role"]: group["lr"] for group in stack.groups(0)}
        inputs, targets = run.data.load().batch(seed=0, step=0, batch=64, sequence=1)
        stack.step(inputs, targets, 0)
        for hook in hooks:
            hook.remove()
        for path, role in LAYERS.items():
            step = (layers[path].get_parameter("weight").detach() - before[path]) / rates[role.value]
            changes[role].append(float((layer_inputs[path] @ step.mT).square().mean().sqrt()))
    return {role: float(np.polyfit(np.log2(widths), np.log2(change), 1)[0]) for role, change in changes.items()}


def _keep_input(path: str, inputs: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        inputs[path] = arguments[0].detach()

    return hook


CHECKS = (check_loss_falls, check_stacking, check_leaving, check_decay, check_refusals, check_law)
