"""u-muP's operations: unit variance, gradient directions, multipliers by trial, errors."""

import dataclasses
from typing import Any

import pytest
import torch

from hptransfer.coordcheck.activations import coordinate_check
from hptransfer.coordcheck.layer_updates import one_layer_check
from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role, unit_scaling
from hptransfer.parameterizations.umup import UMUP
from hptransfer.testing.small_runs import assert_leaving_changes_nothing, assert_stack_equals_trials, first_losses
from hptransfer.training.config import BranchConfig, RunConfig, UnitConfig
from hptransfer.training.groups import group_rules, parameterize_stack
from hptransfer.training.layers import Conv2d, Layer, Linear, Norm, Residual
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.operations import Activation, ScaledDotProductAttention, Sum
from hptransfer.training.stack import Stack
from hptransfer.training.unit_scaling import scale_operations
from tests.support.settings import small
from tests.support.slow import slow_except
from tests.support.unit_runs import RULES, stacked, swiglu, unit_run


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("transformer", {"queries_per_key": 2, "qk_norm": True, "norm_gains": True, "positions": "rotary"}),
        ("vit", {"activation": "relu2"}),
        ("mlp", {"biases": True, "activation": "tanh"}),
        ("resmlp", {"matrices": 2}),
        ("resnet", {"convolutions": 2, "norm": "batch", "stages": 3}),
    ],
)
def test_gradients_point_where_the_losses_own_do(model: str, options: dict[str, Any]) -> None:
    """Each tensor's gradient is a multiple of the unscaled backward pass's."""
    run = unit_run(model=model, **options)
    batch = run.data.load().batch(seed=0, step=0, batch=4, sequence=run.sequence)
    gradients = []
    for plain in (False, True):
        stack = stacked(run)
        for module in stack.model.modules():
            if plain and isinstance(module, Layer):
                module.gradient = None
            if plain and isinstance(module, Residual):
                module.gradient = 1.0
            if plain and isinstance(module, Linear):
                module.backward = 1.0
        stack.losses(*batch).mean(dim=(1, 2)).sum().backward()
        gradients.append({name: weight.grad for name, weight in stack.model.named_parameters()})
    for name, plain_gradient in gradients[1].items():
        ratio = gradients[0][name].norm() / plain_gradient.norm()
        torch.testing.assert_close(gradients[0][name], ratio * plain_gradient, rtol=1e-8, atol=1e-12)
        assert 0.02 < gradients[0][name].square().mean().sqrt() < 50, name


def test_a_convolutions_gradient_is_over_the_root_of_its_pixels() -> None:
    torch.manual_seed(0)
    layer = Conv2d(2, 3, 4, kernel=3, role=Role.HIDDEN, stride=2)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(5, 6, 7, 9)
    (plain,) = torch.autograd.grad(layer(x).sin().sum(), layer.weight)
    scale_operations(layer, [UnitConfig()])
    y = layer(x)
    (found,) = torch.autograd.grad(y.sin().sum(), layer.weight)
    torch.testing.assert_close(found, plain / (5 * 4 * 5) ** 0.5)
    assert y.shape == (5, 8, 4, 5)


def spreads(run: RunConfig) -> dict[str, float]:
    """Return initial standard deviations of every module's output, by name."""
    stack = Stack([run], [0], device="cpu")
    taken: dict[str, float] = {}
    for name, module in stack.model.named_modules():
        if (
            isinstance(module, Layer | Activation | ScaledDotProductAttention | Norm | Sum | Residual)
            or name.count(".") == 1
        ):
            module.register_forward_hook(lambda _, __, y, name=name: taken.update({name: y.std().item()}))
    vocabulary = run.shape.outputs
    with torch.no_grad():
        stack.losses(*(torch.randint(vocabulary, (4, 64), generator=torch.Generator().manual_seed(i)) for i in (0, 1)))
    return taken


@pytest.mark.parametrize("activation", ["gelu", "swiglu", "relu2"])
def test_a_deep_transformer_starts_with_unit_variance_everywhere(activation: str) -> None:
    """Attention's numbers hold for independent values.

    Positions become alike with depth, and their mean grows.

    It is at most as large as if all were equal.
    """
    run = small(
        parameterization="umup", sequence=64, model=TransformerConfig(width=256, depth=8, activation=activation)
    )
    found = spreads(run)
    assert found.pop("readout") == pytest.approx(256**-0.5, rel=0.1)
    equal = unit_scaling.attention(64, run.model.head_dim, causal=True)
    for name, spread in found.items():
        alike = name.endswith(("attention", "attend", "attention.out")) and not name.startswith("blocks.0")
        stream = name.count(".") == 1
        assert 0.85 < spread < (1.1 * equal if alike else 2.0 if stream else 1.2), name


def test_under_mup_nothing_keeps_it() -> None:
    found = spreads(small(sequence=64, model=TransformerConfig(width=256, depth=8)))
    assert found["blocks.7.mlp.activation"] < 0.7
    assert found["blocks.0.attention.attend"] < 0.5
    assert found["blocks.7"] > 2


@pytest.mark.parametrize("optimizer", slow_except(RULES, "adamw"))
def test_an_mlp_changes_as_much_at_every_width(optimizer: str) -> None:
    run = dataclasses.replace(unit_run(optimizer, model="mlp"), batch=64)
    assert coordinate_check(run, widths=(256, 512, 1024), steps=2, seeds=3).fails == []


def of_widths(optimizer: str, *, zero_readout: bool = False) -> RunConfig:
    run = unit_run(optimizer, lr=2.0**-4, zero_readout=zero_readout)
    run.model.depth = 2
    return dataclasses.replace(run, batch=4)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_transformers_embeddings_alone_change_less_with_width(optimizer: str) -> None:
    """Their rate falls as width^-1/2.

    Every other layer's own change stays, and so do the outputs'.
    """
    run = of_widths(optimizer)
    own = one_layer_check(run, widths=(128, 256, 512), seeds=2)
    assert own.passed  # with embeddings held to what is prescribed
    assert {row.name: row.prescribed for row in own.rows if row.prescribed} == {"tokens": -0.5, "positions": -0.5}
    rows = coordinate_check(run, widths=(128, 256, 512), steps=2, seeds=2).rows
    (outputs,) = (row for row in rows if row.name == "outputs")
    assert outputs.slopes[1:] == pytest.approx([0, 0], abs=0.15)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_with_mups_rate_of_embeddings_a_transformer_is_flat(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunConfig, "table", dataclasses.replace(UMUP, lookup=None))
    assert (
        coordinate_check(of_widths(optimizer, zero_readout=True), widths=(128, 256, 512), steps=2, seeds=2).fails == []
    )


@pytest.mark.parametrize("model", slow_except(["transformer", "vit", "mlp", "resmlp", "resnet"], "mlp", "resmlp"))
def test_it_trains_every_model(model: str) -> None:
    run = unit_run(model=model, lr=1.0 if model == "resnet" else 2.0**-3)
    curve = first_losses([run], [0], run.data.load(), steps=50)[:, 0]
    assert curve[-5:].mean() < curve[0] - 0.5


def test_multipliers_that_differ_by_trial_are_the_same_stacked_and_alone() -> None:
    changes: list[dict[str, float]] = [{}, {"activation": 2.0, "attention": 3.0}, {"residual": 0.5, "loss": 2.0}]
    runs = [swiglu(**change) for change in changes]
    assert_stack_equals_trials(runs, [0, 0, 0])


def test_a_trial_that_leaves_takes_its_own_multipliers_with_it() -> None:
    runs = [swiglu(attention=2.0, loss=0.5), swiglu(residual=0.5, activation=2.0)]
    assert_leaving_changes_nothing(runs)


def test_weight_decay_is_independent_unless_the_run_says() -> None:
    run = swiglu()
    assert run.trainer.decay == "independent"
    run.optimizer.decay = "coupled"
    assert run.trainer.decay == "coupled"
    assert small().trainer.decay == "coupled"


def refused(run: RunConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run.check()
    assert "\n" not in str(caught.value)


def test_what_it_has_no_rule_for_is_refused() -> None:
    refused(
        unit_run("kfac"),
        "run.parameterization=umup has no rule for run/optimizer=kfac; take adafactor or adam_atan2 or adamw or "
        "lion or muon or sgd, or run.parameterization=mup",
    )
    refused(unit_run("shampoo"), "has no rule for run/optimizer=shampoo")
    for optimizer in RULES:
        unit_run(optimizer).check()
    tied = unit_run(tied=True)
    with pytest.raises(
        ConfigError, match=r"run.model.tied: umup gives embedding and readout different values of learning_rate"
    ):
        parameterize_stack(tied.model.build(trials=1, shape=tied.shape), [tied], [0])


@pytest.mark.parametrize(
    ("model", "options", "unit", "message"),
    [
        ("transformer", {}, {"loss": 0.0}, r"run.unit.loss must be above 0 and finite, got 0.0"),
        ("transformer", {"activation": "relu2"}, {"activation": 2.0}, "run.unit.activation is 2, .* no gelu or swiglu"),
        ("mlp", {}, {"attention": 2.0}, "run.unit.attention is 2, but run/model=mlp has no attention; leave it at 1"),
        ("resnet", {}, {"attention_ratio": 2.0}, "run.unit.attention_ratio is 2, .* no attention"),
        ("mlp", {}, {"residual": 2.0}, "run.unit.residual is 2, but run/model=mlp has no residual branches"),
    ],
)
def test_multipliers_that_would_do_nothing_are_refused(
    model: str, options: dict[str, Any], unit: dict[str, float], message: str
) -> None:
    refused(dataclasses.replace(unit_run(model=model, **options), unit=UnitConfig(**unit)), message)


def test_other_parameterizations_lack_unit_multipliers() -> None:
    refused(
        small(unit=UnitConfig(attention=2.0)),
        "run.unit.attention is 2, but run.parameterization=mup lacks this multiplier; leave it at 1, or take "
        "run.parameterization=umup",
    )


@pytest.mark.parametrize("branch", [{"multiplier": 0.5}, {"alpha": 1.0}, {"alpha": 0.0}])
def test_branch_factors_are_its_own(branch: dict[str, float]) -> None:
    ((key, value),) = branch.items()
    message = f"run.branch.{key} is {value:g}, but run.parameterization=umup weighs residual branches itself"
    refused(dataclasses.replace(unit_run(), branch=BranchConfig(**branch)), message)


def test_exported_factors_know_no_common_branch_factor() -> None:
    assert group_rules(swiglu())["branch_multiplier"] is None


def test_gradients_of_unit_size_ask_for_one_epsilon() -> None:
    run = swiglu()
    assert {group["eps"] for group in stacked(run).groups(0)} == {run.optimizer.eps}
