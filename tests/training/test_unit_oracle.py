"""u-muP against the unit-scaling package: operations, rates, and whole training trajectories."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import unit_scaling as uu
import unit_scaling.functional as U
from torch import Tensor, nn
from unit_scaling.core.functional import transformer_residual_scaling_rule
from unit_scaling.optim import lr_scale_func_adam, lr_scale_func_sgd

from hptransfer.parameterizations import Role
from hptransfer.training.config import RunConfig, UnitConfig
from hptransfer.training.layers import Linear, Residual
from hptransfer.training.operations import Activation, ScaledDotProductAttention
from hptransfer.training.stack import Stack
from hptransfer.training.unit_scaling import scale_operations
from tests.support.unit_runs import stacked, swiglu

BLOCKS, WIDTH, HEADS, POSITIONS, BATCH = 3, 64, 4, 32, 2
EPS = 1e-6  # of our norms; the package's are given it too


class Decoder(nn.Module):
    """The package's decoder with learned positions.

    Layers, norm and readout are the package's, in our order.
    """

    def __init__(self, vocabulary: int, unit: UnitConfig) -> None:
        super().__init__()
        tau = transformer_residual_scaling_rule(unit.residual, unit.attention_ratio)
        self.unit = unit
        self.tokens, self.positions = uu.Embedding(vocabulary, WIDTH), uu.Embedding(POSITIONS, WIDTH)
        self.layers = uu.DepthSequential(
            *(
                uu.TransformerLayer(
                    WIDTH, HEADS, mhsa_tau=tau(2 * i, 2 * BLOCKS), mlp_tau=tau(2 * i + 1, 2 * BLOCKS), is_causal=True
                )
                for i in range(BLOCKS)
            )
        )
        self.norm, self.readout = uu.RMSNorm(WIDTH), uu.LinearReadout(WIDTH, vocabulary)
        for module in self.modules():
            if isinstance(module, uu.RMSNorm):
                module.eps = EPS
            elif isinstance(module, uu.MHSA):
                module.mult = unit.attention
            elif isinstance(module, uu.MLP):
                # Without constraints gradients within an MLP are larger by 2, the root of its widening.
                for linear in (module.linear_1, module.linear_gate, module.linear_2):
                    linear.constraint = "to_output_scale"

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = U.add(self.tokens(inputs), self.positions(torch.arange(POSITIONS)))
        logits = self.readout(self.norm(self.layers(x)))
        return U.cross_entropy(logits.flatten(0, 1), targets.flatten(), mult=self.unit.loss)

    def paired(self, ours: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor, str]]:
        """Yield every weight of theirs with ours, and our name of it."""
        for name in ("tokens", "positions", "readout"):
            yield self.get_parameter(f"{name}.weight"), ours[f"{name}.weight"][0], f"{name}.weight"
        for index, layer in enumerate(self.layers):
            block = f"blocks.{index}"
            values, gates = ours[f"{block}.mlp.up.weight"][0].chunk(2)
            yield (
                layer.mhsa.linear_qkv.weight,
                ours[f"{block}.attention.qkv.weight"][0],
                f"{block}.attention.qkv.weight",
            )
            yield layer.mhsa.linear_o.weight, ours[f"{block}.attention.out.weight"][0], f"{block}.attention.out.weight"
            yield layer.mlp.linear_1.weight, values, f"{block}.mlp.up.weight"
            yield layer.mlp.linear_gate.weight, gates, f"{block}.mlp.up.weight"
            yield layer.mlp.linear_2.weight, ours[f"{block}.mlp.down.weight"][0], f"{block}.mlp.down.weight"


def decoder(stack: Stack, run: RunConfig) -> Decoder:
    """Return the package's decoder with our weights."""
    theirs = Decoder(run.shape.outputs, run.unit).double()
    with torch.no_grad():
        for their, our, _ in theirs.paired(dict(stack.model.named_parameters())):
            their.copy_(our)
    return theirs


def largest_difference(stack: Stack, run: RunConfig, steps: int = 20) -> float:
    """Return the largest relative difference of our losses to the package's."""
    theirs = decoder(stack, run)
    lr, data = run.optimizer.lr, run.data.load()
    if run.optimizer.name == "adamw":
        optimizer = uu.optim.AdamW(theirs.parameters(), lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    else:
        optimizer = uu.optim.SGD(theirs.parameters(), lr=lr, momentum=0.9)
    differences = []
    for step in range(steps):
        batch = data.batch(seed=0, step=step, batch=BATCH, sequence=POSITIONS)
        loss = theirs.losses(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        differences.append(abs(stack.step(*batch, step).item() / loss.item() - 1))
    return max(differences)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("unit", [{}, {"attention": 2.0, "residual": 0.5, "attention_ratio": 2.0, "loss": 1.5}])
def test_a_transformer_trains_as_the_packages(optimizer: str, unit: dict[str, float]) -> None:
    """Only the package's root mean squares in float32 differ."""
    run = swiglu(optimizer, **unit)
    assert largest_difference(stacked(run), run) < 1e-6


def _plain_residual(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Residual):
            module.factor = module.skip = 2**-0.5
            module.gradient = 2**0.5


def _late_residual(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Residual):
            module.gradient = 1.0


def _plain_readout(model: nn.Module) -> None:
    model.get_submodule("readout").backward = 1.0


def _plain_attention(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, ScaledDotProductAttention):
            module.multiplier = 1.0


@pytest.mark.parametrize(
    ("optimizer", "without"),
    [
        ("adamw", _plain_residual),
        ("adamw", _plain_attention),
        ("sgd", _late_residual),  # Adam does not feel how large gradients are
        ("sgd", _plain_readout),
    ],
)
def test_it_does_not_without_one_of_its_numbers(optimizer: str, without: Callable[[nn.Module], None]) -> None:
    run = swiglu(optimizer)
    stack = stacked(run)
    without(stack.model)
    assert largest_difference(stack, run, steps=5) > 1e-3


@pytest.mark.parametrize(("optimizer", "scale"), [("adamw", lr_scale_func_adam), ("sgd", lr_scale_func_sgd(None))])
def test_every_tensor_has_the_packages_rate_and_decay(optimizer: str, scale: Callable[[Any], float]) -> None:
    run = swiglu(optimizer)
    run.optimizer.weight_decay = 0.01
    stack = stacked(run)
    theirs = decoder(stack, run)
    ours = {name: group for group in stack.groups(0) for name in group["parameters"]}
    for weight, _, name in theirs.paired(dict(stack.model.named_parameters())):
        assert ours[name]["lr"] == pytest.approx(run.optimizer.lr * scale(weight)), name
    torch_groups = stack.optimizers[0].param_groups
    decays = [group["peak"] * (group["weight_decay"] or group["decoupled"]) for group in torch_groups]
    assert decays == pytest.approx([0.01] * len(decays))  # of a weight in a step at the peak, whatever its rate


def run_both(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
    """Compare values and gradients of inputs.

    Ours have a leading trial axis.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    found = []
    for y in (ours(*(x[None] for x in inputs))[0], theirs(*inputs)):
        found.append((y, *torch.autograd.grad(y.sin().sum(), inputs)))
    for our, their in zip(*found, strict=True):
        torch.testing.assert_close(our, their)


def scaled(module: nn.Module, **unit: float) -> Any:
    scale_operations(module, [UnitConfig(**unit)])
    return module


@pytest.mark.parametrize("sharpness", [1.0, 0.3, 4.0])
def test_activations_are_the_packages(sharpness: float) -> None:
    gelu, gated = (scaled(Activation(name), activation=sharpness) for name in ("gelu", "swiglu"))
    run_both(gelu, lambda x: U.gelu(x, mult=sharpness), (3, 8))
    run_both(gated, lambda x: U.silu_glu(*x.chunk(2, dim=-1), mult=sharpness), (3, 8))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sharpness", [1.0, 0.3, 4.0])
def test_attention_is_the_packages(causal: bool, sharpness: float) -> None:
    ours = scaled(ScaledDotProductAttention(head_dim=8, positions=6, causal=causal, scale=None), attention=sharpness)

    def theirs(*heads: Tensor) -> Tensor:
        y = U.scaled_dot_product_attention(*(x.transpose(1, 2) for x in heads), is_causal=causal, mult=sharpness)
        return y.transpose(1, 2).flatten(2)

    run_both(ours, theirs, *[(2, 6, 4, 8)] * 3)


def test_attention_with_a_scale_of_the_models_own_keeps_it() -> None:
    ours = scaled(ScaledDotProductAttention(head_dim=8, positions=6, causal=True, scale=8**-0.5))
    same = scaled(ScaledDotProductAttention(head_dim=8, positions=6, causal=True, scale=None), attention=8**0.5)
    assert (ours.scale, ours.multiplier) == pytest.approx((same.scale, same.multiplier))


@pytest.mark.parametrize(("role", "theirs"), [(Role.HIDDEN, U.linear), (Role.OUTPUT, U.linear_readout)])
def test_linear_layers_are_the_packages(role: Role, theirs: Callable[..., Tensor]) -> None:
    layer = Linear(1, 16, 24, role=role)
    layer.multiplier = 16 ** (-1.0 if role is Role.OUTPUT else -0.5)
    scaled(layer)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        del layer._parameters["weight"]
        layer.weight = weight
        y = layer(x)
        del layer.weight
        layer.register_parameter("weight", nn.Parameter(weight.detach()))
        return y

    run_both(ours, lambda x, weight: theirs(x, weight, None), (2, 5, 16), (24, 16))
