"""Shampoo and K-FAC: definitions, other implementations, stacks, scaling with width."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import ENTRYWISE, INVERSE_CURVATURE, RAW, SPECTRAL, Role, UpdateLaw
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.layers import Conv2d, Linear, Moments, tagged
from hptransfer.training.loop import train
from hptransfer.training.optimizers._matrix import MatrixConfig, damped_power
from hptransfer.training.optimizers.kfac import KfacConfig
from hptransfer.training.optimizers.shampoo import ShampooConfig
from hptransfer.training.stack import Stack
from tests.support.settings import of_model
from tests.support.slow import slow_except

CONFIGS = [ShampooConfig, KfacConfig]
both = pytest.mark.parametrize("config", CONFIGS, ids=["shampoo", "kfac"])
WIDTHS = (64, 128, 256, 512)


def run_of(model: str, optimizer: MatrixConfig, *, width: int = 32, **options: Any) -> RunConfig:
    return dataclasses.replace(of_model(model, width=width, **options), optimizer=optimizer)


def stack_of(*runs: RunConfig) -> Stack:
    return Stack(runs, list(range(len(runs))), device="cpu", dtype=torch.float64)


def batch_of(run: RunConfig, step: int = 0) -> tuple[Tensor, Tensor]:
    return run.data.load().batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)


def steps_of(stack: Stack, run: RunConfig, steps: range) -> Tensor:
    """Return losses of every trial at every step."""
    return torch.stack([stack.step(*batch_of(run, step), step) for step in steps])


def rates(stack: Stack, position: int) -> dict[int, float]:
    """Return the rate of each tensor of a trial, by memory address."""
    groups = [group for one in stack.optimizers for group in one.param_groups if group["trial"] == position]
    return {view.data_ptr(): group["lr"] for group in groups for view in group["params"]}


# By definition.


def test_shampoos_first_step_is_that_of_its_definition() -> None:
    """The first step has spectral norm 1 except for the damping.

    With G = U S V', L^-1/4 G R^-1/4 = U S (S^2 + damping S_1^2)^-1/2 V'.
    """
    run = run_of("mlp", ShampooConfig(damping=1e-3))
    stack = stack_of(run, run)
    before = [weight.detach()[1].clone() for weight in stack.model.parameters()]
    stack.step(*batch_of(run), 20)
    for old, weight in zip(before, stack.model.parameters(), strict=True):
        assert weight.grad is not None
        u, s, vh = torch.linalg.svd(weight.grad[1], full_matrices=False)
        expected = u * (s * (s**2 + 1e-3 * s[0] ** 2) ** -0.5) @ vh
        step = (old - weight.detach()[1]) / rates(stack, 1)[weight[1].data_ptr()]
        torch.testing.assert_close(step, expected, rtol=1e-8, atol=1e-10)
        assert torch.linalg.matrix_norm(step, 2).item() == pytest.approx(1.001**-0.5)


def test_kfacs_first_step_is_that_of_its_definition() -> None:
    """Compare with single examples' passes in torch's own layers.

    For the second trial of a stack.
    """
    run = run_of("mlp", KfacConfig(damping=1e-2), width=64)
    run.constants.hidden.multiplier = run.constants.output.multiplier = 3.0  # the factors are before multipliers
    stack = stack_of(run, run)
    before = [weight.detach()[1].clone() for weight in stack.model.parameters()]
    multipliers = [layer.multiplier for layer in stack.model.layers]
    images, labels = batch_of(run)
    stack.step(images, labels, 20)
    inputs: list[list[Tensor]] = [[], [], []]
    gradients: list[list[Tensor]] = [[], [], []]
    for image, label in zip(images.double(), labels[:, 0], strict=True):
        h, outputs = image.flatten(), []
        for index, (matrix, multiplier) in enumerate(zip(before, multipliers, strict=True)):
            inputs[index].append(h)
            outputs.append((matrix @ h).requires_grad_())
            h = F.relu(multiplier * outputs[-1])
        loss = F.cross_entropy(multiplier * outputs[-1], label)
        for index, gradient in enumerate(torch.autograd.grad(loss, outputs)):
            gradients[index].append(gradient)
    for index, weight in enumerate(stack.model.parameters()):
        h, g = torch.stack(inputs[index]).detach(), torch.stack(gradients[index])
        a, b, mean = h.T @ h / len(h), g.T @ g / len(h), g.T @ h / len(h)
        for one in (a, b):
            one.diagonal().add_(1e-2 * torch.linalg.matrix_norm(one, 2))
        expected = torch.linalg.solve(b, torch.linalg.solve(a, mean, left=False))
        step = (before[index] - weight.detach()[1]) / rates(stack, 1)[weight[1].data_ptr()]
        torch.testing.assert_close(step, expected, rtol=1e-8, atol=1e-10)


def test_means_are_bias_corrected_and_powers_may_wait() -> None:
    """Compare four steps with their definition, powers from steps one and three."""
    cfg = ShampooConfig(damping=1e-3, momentum=0.8, beta2=0.6, every=2, weight_decay=0.5)
    run = run_of("mlp", cfg)
    stack = stack_of(run)
    weight = stack.model.layers[1].weight
    mean = left = right = torch.zeros(32, 32, dtype=torch.float64)
    for step in range(4):
        old = weight.detach()[0].clone()
        stack.step(*batch_of(run, step), step)
        lr, g = rates(stack, 0)[weight[0].data_ptr()], weight.grad[0]
        mean, left, right = 0.8 * mean + 0.2 * g, 0.6 * left + 0.4 * g @ g.T, 0.6 * right + 0.4 * g.T @ g
        if step in (0, 2):
            powers = [damped_power(one / (1 - 0.6 ** (step + 1)), -0.25, 1e-3) for one in (left, right)]
        expected = old * (1 - 0.5 * lr) - lr * powers[0] @ mean @ powers[1] / (1 - 0.8 ** (step + 1))
        torch.testing.assert_close(weight.detach()[0], expected, rtol=1e-9, atol=1e-12)


def test_a_long_side_has_no_factor_and_steps_still_have_spectral_norm_1() -> None:
    run = run_of("transformer", ShampooConfig(largest_side=40, damping=1e-6))
    stack = stack_of(run)
    before = stack.model.tokens.weight.detach()[0].clone()
    stack.step(*batch_of(run), 20)
    weight = stack.model.tokens.weight
    step = (before - weight.detach()[0]) / rates(stack, 0)[weight[0].data_ptr()]
    (state,) = [value for view, value in stack.optimizers[0].state.items() if view.data_ptr() == weight.data_ptr()]
    assert state["factors"][0] is None
    assert torch.linalg.matrix_norm(step, 2).item() == pytest.approx(1, rel=1e-5)


def test_a_lookups_inputs_are_counted_and_a_large_readout_has_a_diagonal_factor() -> None:
    run = run_of("transformer", KfacConfig(largest_side=40))
    stack = stack_of(run, run)
    inputs, targets = batch_of(run)
    stack.losses(inputs, targets).mean(dim=(1, 2)).sum().backward()
    counted, readout = stack.model.tokens.moments, stack.model.readout.moments
    assert counted.rows == inputs.numel()
    assert counted.inputs[1].tolist() == torch.bincount(inputs.flatten(), minlength=counted.inputs.shape[1]).tolist()
    assert readout.outputs.shape == (2, stack.model.readout.fan_out)
    stack.step(inputs, targets, 0)
    assert counted.inputs is None
    assert all(weight.isfinite().all() for weight in stack.model.parameters())


# Against other implementations.


def test_shampoo_is_pytorch_optimizers() -> None:
    """Their rate includes t^1/2: they sum where ours averages.

    Damping is almost 0 in both.
    """
    package = pytest.importorskip("pytorch_optimizer")
    run = run_of("mlp", ShampooConfig(momentum=0, beta2=1 - 1e-8, damping=1e-14), width=8, activation="tanh")
    run = dataclasses.replace(run, base=Base(width=8), batch=64)
    stack = stack_of(run)
    theirs = twin(stack, nn.Tanh())
    optimizer = package.Shampoo(theirs.parameters(), momentum=0.0, matrix_eps=1e-14)
    for step in range(4):
        images, labels = batch_of(run, step)
        stack.step(images, labels, step)
        optimizer.zero_grad()
        F.cross_entropy(theirs(images.double()), labels[:, 0]).backward()
        optimizer.param_groups[0]["lr"] = stack.optimizers[0].param_groups[0]["lr"] * (step + 1) ** 0.5
        optimizer.step()
        for weight, other in zip(stack.model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight.detach()[0], other.detach(), rtol=1e-5, atol=1e-6)


def twin(stack: Stack, activation: nn.Module) -> nn.Sequential:
    """Return an MLP of torch's layers with the first trial's weights."""
    layers: list[nn.Module] = [nn.Flatten()]
    for weight in stack.model.parameters():
        layer = nn.Linear(weight.shape[2], weight.shape[1], bias=False, dtype=torch.float64)
        layer.weight.data.copy_(weight.detach()[0])
        layers += [layer, activation]
    return nn.Sequential(*layers[:-1])


@pytest.mark.interop
@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_kfacs_factors_of_an_mlp_are_curvlinops() -> None:
    run = run_of("mlp", KfacConfig(), activation="gelu")
    stack = stack_of(run)
    images, labels = batch_of(run)
    stack.losses(images, labels).mean(dim=(1, 2)).sum().backward()
    compare(twin(stack, nn.GELU()), images, labels[:, 0], [layer.moments for layer in stack.model.layers])


@pytest.mark.interop
@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_kfacs_factors_of_convolutions_are_curvlinops() -> None:
    layers = [
        Conv2d(2, 3, 6, kernel=3, role=Role.HIDDEN),
        Conv2d(2, 6, 4, kernel=3, role=Role.HIDDEN, stride=2),
        Linear(2, 4, 5, role=Role.OUTPUT),
    ]
    for layer in layers:
        nn.init.normal_(layer.double().weight)
        layer.moments = Moments()
    images, labels = torch.randn(7, 3, 8, 8, dtype=torch.float64), torch.randint(5, (7,))
    x = layers[1](F.relu(layers[0](images.repeat(1, 2, 1, 1)))).mean(dim=(2, 3)).unflatten(1, (2, -1)).transpose(0, 1)
    sum(F.cross_entropy(outputs, labels) for outputs in layers[2](x)).backward()
    theirs = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1, stride=2, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5, bias=False),
    ).double()
    for layer, weight in zip(layers, theirs.parameters(), strict=True):
        weight.data.copy_(layer.weight.detach()[1])
    compare(theirs, images, labels, [layer.moments for layer in layers], trial=1)


def compare(model: nn.Module, images: Tensor, labels: Tensor, moments: list[Moments], trial: int = 0) -> None:
    """Assert that products B V A with random matrices V agree."""
    import curvlinops as package

    weights = list(model.parameters())
    data = [(images.double(), labels)]
    theirs = package.KFACLinearOperator(model, nn.CrossEntropyLoss(), weights, data, fisher_type="empirical")
    vectors = [torch.randn_like(weight) for weight in weights]
    for ours, vector, product in zip(moments, vectors, theirs @ vectors, strict=True):
        a, b = ours.inputs[trial] / ours.rows, ours.outputs[trial] * len(labels)
        torch.testing.assert_close((b @ vector.flatten(1) @ a).view_as(product), product, rtol=1e-6, atol=1e-12)


# Stacks.


@both
@pytest.mark.parametrize("model", slow_except(["mlp", "resnet", "transformer"], "mlp", "resnet"))
def test_a_stack_gives_each_trial_the_numbers_that_it_has_alone(config: type[MatrixConfig], model: str) -> None:
    options: dict[str, Any] = {"mlp": {"biases": True}, "resnet": {"width": 8, "stages": 2}}.get(model, {"depth": 1})
    settings = [{"lr": 2.0**-6}, {"lr": 2.0**-4, "damping": 0.1}, {"lr": 2.0**-5, "matrices": "hidden", "every": 3}]
    runs = [run_of(model, config(**one), **options) for one in settings]
    together = steps_of(stack_of(*runs), runs[0], range(20))
    for index, run in enumerate(runs):
        alone = steps_of(Stack([run], [index], device="cpu", dtype=torch.float64), run, range(20))
        torch.testing.assert_close(together[:, [index]], alone, rtol=1e-6, atol=0)
    for first, second in itertools.combinations(together[-1].tolist(), 2):  # the control: the trials do differ
        assert abs(first - second) > 1e-4


@pytest.mark.slow
@both
def test_each_trial_of_a_stack_has_its_own_longest_side(config: type[MatrixConfig]) -> None:
    """Test with the longest side first and last.

    Neither may decide for the others, nor for the remaining trials after it leaves.
    """
    sides = (40, 2048, 40, 2048)
    runs = [run_of("transformer", config(largest_side=side), depth=1) for side in sides]
    stack = stack_of(*runs)
    together = steps_of(stack, runs[0], range(4))
    stack.keep([0, 2, 3])
    rest = steps_of(stack, runs[0], range(4, 8))
    for index, run in enumerate(runs):
        alone = steps_of(Stack([run], [index], device="cpu", dtype=torch.float64), run, range(8))
        torch.testing.assert_close(together[:, [index]], alone[:4], rtol=1e-8, atol=0)
        if index in (0, 2, 3):
            torch.testing.assert_close(rest[:, [[0, 2, 3].index(index)]], alone[4:], rtol=1e-8, atol=0)
    other = Stack([runs[1]], [0], device="cpu", dtype=torch.float64)  # the control: the setting does matter
    assert (steps_of(other, runs[1], range(8))[-1] - rest[-1, 0]).abs() > 1e-4


@both
@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_a_trial_that_leaves_a_stack_leaves_the_others_as_they_were(config: type[MatrixConfig], model: str) -> None:
    """Control: without the optimizer's memory steps differ by more than rounding."""
    run = run_of(model, config(every=4), width=16)
    whole, cut, forgetful = (stack_of(run, run, run) for _ in range(3))
    for stack in (whole, cut, forgetful):
        steps_of(stack, run, range(6))
    cut.keep([0, 2])
    expected = steps_of(whole, run, range(6, 12))[:, [0, 2]]
    torch.testing.assert_close(steps_of(cut, run, range(6, 12)), expected, rtol=1e-9, atol=0)
    forgetful._bind()
    assert (steps_of(forgetful, run, range(6, 12))[-1, [0, 2]] / expected[-1] - 1).abs().min() > 1e-4


@both
def test_a_trial_that_is_not_finite_harms_no_other(config: type[MatrixConfig]) -> None:
    run = run_of("mlp", config())
    whole, sick = stack_of(run, run), stack_of(run, run)
    with torch.no_grad():
        sick.model.layers[1].weight[0].fill_(torch.nan)
    losses = steps_of(sick, run, range(5))
    assert losses[:, 0].isnan().all()
    torch.testing.assert_close(losses[:, 1], steps_of(whole, run, range(5))[:, 1], rtol=1e-9, atol=0)


@both
def test_a_layer_whose_gradient_is_still_zero_stays(config: type[MatrixConfig]) -> None:
    stack = stack_of(run := run_of("transformer", config(), depth=1, zero_readout=True))
    before = stack.model.blocks[0].mlp.up.weight.detach().clone()
    stack.step(*batch_of(run), 0)
    assert torch.equal(stack.model.blocks[0].mlp.up.weight, before)
    assert steps_of(stack, run, range(1, 4)).isfinite().all()


# Width.


def change_slopes(optimizer: MatrixConfig) -> list[float]:
    """Return slopes of every layer's own first change against width.

    In logarithms of the RMS.
    """
    changes = []
    for width in WIDTHS:
        run = run_of("mlp", optimizer, width=width, depth=3)
        run = dataclasses.replace(run, base=Base(width=64), parameterization="mup_table3", batch=64)
        stack = Stack([run, run], [0, 1], device="cpu")
        layers = list(stack.model.layers)
        before = [layer.weight.detach().clone() for layer in layers]
        inputs: dict[nn.Module, Tensor] = {}
        for layer in layers:
            layer.register_forward_pre_hook(
                lambda layer, given, inputs=inputs: inputs.update({layer: given[0].detach()})
            )
        stack.step(*batch_of(run), 10)
        moved = [inputs[layer] @ (old - layer.weight).mT for old, layer in zip(before, layers, strict=True)]
        changes.append([x.square().mean().sqrt().item() for x in moved])
    return [float(slope) for slope in np.polyfit(np.log2(WIDTHS), np.log2(changes), 1)[0]]


@both
def test_the_first_step_changes_every_layers_output_alike_at_every_width(config: type[MatrixConfig]) -> None:
    slopes = change_slopes(config())
    assert len(slopes) == 4
    assert max(map(abs, slopes)) < 0.15


@both
@pytest.mark.parametrize(
    ("wrong", "slope"), slow_except([(ENTRYWISE, -1), (RAW, 0)], (RAW, 0)), ids=["entrywise", "raw"]
)
def test_another_optimizers_law_is_seen(config: type[MatrixConfig], wrong: UpdateLaw, slope: float) -> None:
    """Control: SGD's law is right for hidden matrices only."""

    class Wrong(config):  # type: ignore[misc, valid-type]
        matrix_law = wrong

    slopes = change_slopes(Wrong())
    assert slopes[1:-1] == pytest.approx([slope] * 2, abs=0.2)
    assert max(map(abs, slopes)) > 0.4


def test_laws_and_settings_follow_the_choice_of_matrices() -> None:
    for config, law in ((ShampooConfig, SPECTRAL), (KfacConfig, INVERSE_CURVATURE)):
        everything, hidden = config(), config(matrices="hidden")
        assert [everything.law(role) for role in Role] == [law, law, law, ENTRYWISE, ENTRYWISE]
        assert [hidden.law(role) for role in Role] == [ENTRYWISE, law, ENTRYWISE, ENTRYWISE, ENTRYWISE]
        stack = stack_of(run_of("resnet", hidden, norm="batch"))
        by_matrix = {view.data_ptr() for group in stack.optimizers[0].param_groups for view in group["params"]}
        roles = {item.layer.role for item in tagged(stack.model) if item.weight.data_ptr() in by_matrix}
        assert roles == {Role.HIDDEN}


# Training, and errors.


@both
@pytest.mark.parametrize("model", slow_except(["mlp", "resmlp", "resnet", "transformer"], "mlp"))
def test_the_loss_falls(config: type[MatrixConfig], model: str) -> None:
    run = run_of(model, config())
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None
    assert result.loss < (0.4 if model in ("mlp", "resmlp") else result.initial_loss - 0.5)


@both
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matrices": "al"}, r"o\.matrices: unknown choice 'al'"),
        ({"damping": 0.0}, r"o\.damping must be in \(0, 1\], got 0.0"),
        ({"every": 0}, r"o\.every must be at least 1, got 0"),
        ({"largest_side": 0}, r"o\.largest_side must be at least 1, got 0"),
        ({"momentum": 1.0}, r"o\.momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_errors(config: type[MatrixConfig], settings: dict[str, Any], message: str) -> None:
    config().check("o")
    with pytest.raises(ConfigError, match=message):
        config(**settings).check("o")


def test_kfac_refuses_tied_weights_but_leaves_them_to_adamw() -> None:
    with pytest.raises(ConfigError, match="kfac has no factors for a tied embedding, a matrix of role input; untie it"):
        stack_of(run_of("transformer", KfacConfig(), tied=True))
    stack = stack_of(run := run_of("transformer", KfacConfig(matrices="hidden"), tied=True))
    assert steps_of(stack, run, range(2)).isfinite().all()
