"""At the base, plain torch training has the same losses.

The optimizers are torch's own and the pytorch-optimizer package's; where neither has one, its definition in few lines.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.schedules import Schedule
from hptransfer.training.stack import Stack
from tests.support.plain import PlainMlp, PlainTransformer, batches, copy_weights, plain_losses, stack_losses
from tests.support.settings import of_model
from tests.support.slow import slow_except

WIDTH, DECAY = 32, 0.1
MODELS = ("mlp", "transformer")
# Muon's iteration runs in bfloat16, which makes much of the last bit of a gradient.
TOLERANCE = {"muon": 1e-4}
Optimizer = torch.optim.Optimizer


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Part parameters into hidden matrices and the rest."""
    first_or_last = ("tokens", "positions", "readout", "layers.0.", "layers.3.")
    hidden = [
        weight for name, weight in model.named_parameters() if weight.dim() == 2 and not name.startswith(first_or_last)
    ]
    known = {id(weight) for weight in hidden}
    return hidden, [weight for weight in model.parameters() if id(weight) not in known]


def adamw(weights: Iterable[nn.Parameter], lr: float = 2.0**-6) -> Optimizer:
    return torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY)


def muon(model: nn.Module) -> list[Optimizer]:
    hidden, rest = split(model)
    settings: dict[str, Any] = {"lr": 2.0**-6, "momentum": 0.95, "weight_decay": DECAY}
    return [torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", **settings), adamw(rest)]


def sgd(model: nn.Module) -> list[Optimizer]:
    """SGD with AdamW's decay by hand: torch's goes through the momentum."""
    return [Decay(model.parameters(), {"lr": 0.1}), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)]


def lion(model: nn.Module) -> list[Optimizer]:
    from pytorch_optimizer import Lion

    return [Lion(model.parameters(), lr=2.0**-9, betas=(0.9, 0.99), weight_decay=DECAY)]


def adafactor(model: nn.Module) -> list[Optimizer]:
    from pytorch_optimizer import AdaFactor

    one = AdaFactor(model.parameters(), lr=2.0**-5, betas=(None, 0.999), relative_step=False, scale_parameter=True)
    return [Decay(model.parameters(), {"lr": 2.0**-5}), one]


class Decay(Optimizer):
    """Decay w -= lr * decay * w."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.mul_(1 - group["lr"] * DECAY)


class Atan2(Optimizer):
    """Step w -= lr * atan2(m, sqrt(v)) with Adam's corrected means."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["t"] = t = state.get("t", 0) + 1
                state["m"] = m = 0.9 * state.get("m", 0) + 0.1 * weight.grad
                state["v"] = v = 0.95 * state.get("v", 0) + 0.05 * weight.grad**2
                weight.sub_(group["lr"] * torch.atan2(m / (1 - 0.9**t), (v / (1 - 0.95**t)).sqrt()))


def adam_atan2(model: nn.Module) -> list[Optimizer]:
    return [Decay(model.parameters(), {"lr": 2.0**-6}), Atan2(model.parameters(), {"lr": 2.0**-6})]


class Shampoo(Optimizer):
    """Step w -= lr * L^-1/4 m R^-1/4.

    L, m and R are corrected means of G G', G and G' G.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state, g = self.state[weight], weight.grad
                state["t"] = t = state.get("t", 0) + 1
                state["m"] = m = 0.9 * state.get("m", 0) + 0.1 * g
                state["L"] = 0.95 * state.get("L", 0) + 0.05 * g @ g.T
                state["R"] = 0.95 * state.get("R", 0) + 0.05 * g.T @ g
                left, right = (root(state[side] / (1 - 0.95**t), -1 / 4, 1e-6) for side in "LR")
                weight.sub_(group["lr"] * left @ (m / (1 - 0.9**t)) @ right)


def root(matrix: Tensor, power: float, damping: float) -> Tensor:
    """Return the damped power of a symmetric matrix.

    A share of its largest eigenvalue is added to all.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag((values.clamp(min=0) + damping * values.max()) ** power) @ vectors.T


def shampoo(model: nn.Module) -> list[Optimizer]:
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    ones: list[Optimizer] = [Decay(matrices, {"lr": 2.0**-4}), Shampoo(matrices, {"lr": 2.0**-4})]
    return [*ones, *([adamw(vectors, lr=2.0**-4)] if vectors else [])]


class Kfac(Optimizer):
    """Step w -= lr * B^-1 m A^-1.

    A and B are corrected means of second moments of a linear layer's inputs and gradients.
    """

    def __init__(self, layers: list[nn.Linear], lr: float) -> None:
        super().__init__([layer.weight for layer in layers], {"lr": lr})
        self.layers = {layer.weight: layer for layer in layers}
        self.seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for layer in layers:
            layer.register_forward_hook(self._watch)

    def _watch(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        h = inputs[0].detach().flatten(0, -2)
        output.register_hook(lambda g: self.seen.update({layer: (h, g.flatten(0, -2))}))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for weight, layer in self.layers.items():
            state, (h, g) = self.state[weight], self.seen[layer]
            state["t"] = t = state.get("t", 0) + 1
            state["m"] = m = 0.9 * state.get("m", 0) + 0.1 * weight.grad
            state["A"] = 0.95 * state.get("A", 0) + 0.05 * h.T @ h / len(h)
            state["B"] = 0.95 * state.get("B", 0) + 0.05 * g.T @ g * len(g)
            a, b = (root(state[side] / (1 - 0.95**t), -1.0, 1e-2) for side in "AB")
            weight.sub_(self.param_groups[0]["lr"] * b @ (m / (1 - 0.9**t)) @ a)


def kfac(model: nn.Module) -> list[Optimizer]:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    matrices = [layer.weight for layer in layers]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    return [Decay(matrices, {"lr": 2.0**-6}), Kfac(layers, 2.0**-6), adamw(vectors)]


PEERS: dict[str, Callable[[nn.Module], list[Optimizer]]] = {
    "adafactor": adafactor,
    "adam_atan2": adam_atan2,
    "adamw": lambda model: [adamw(model.parameters())],
    "kfac": kfac,
    "lion": lion,
    "muon": muon,
    "sgd": sgd,
    "shampoo": shampoo,
}
# K-FAC's factors of embeddings are not a linear layer's; they have tests of their own.
CASES = [(name, model) for name in PEERS for model in MODELS if (name, model) != ("kfac", "transformer")]


def our_run(name: str, model: str) -> RunConfig:
    options: dict[str, Any] = {"biases": True, "depth": 3} if model == "mlp" else {}
    return dataclasses.replace(
        of_model(model, width=WIDTH, **options),
        base=Base(width=WIDTH, depth=3 if model == "mlp" else 2),
        optimizer=OPTIMIZERS.get(name)(name=name, weight_decay=DECAY),
        schedule=Schedule(shape="constant", warmup=0),
    )


def plain_model(run: RunConfig, model: str) -> nn.Module:
    if model == "mlp":
        return PlainMlp([64, WIDTH, WIDTH, WIDTH, run.shape.outputs], biases=True)
    sizes = {"vocabulary": run.shape.vocabulary, "sequence": run.sequence, "width": WIDTH}
    return PlainTransformer(**sizes, depth=2, head_dim=16)


def test_every_optimizer_is_here() -> None:
    assert sorted(PEERS) == sorted(OPTIMIZERS.names())


@pytest.mark.parametrize(
    ("name", "model"), slow_except(CASES, *[case for case in CASES if case != ("shampoo", "transformer")])
)
def test_the_base_run_is_an_ordinary_training(name: str, model: str) -> None:
    run = our_run(name, model)
    stack = Stack([run], [0], device="cpu", dtype=torch.float64)
    plain = plain_model(run, model).double()
    copy_weights(stack, plain)
    found = batches(run)
    ours = stack_losses(stack, found)
    assert ours == pytest.approx(plain_losses(plain, PEERS[name](plain), found), rel=TOLERANCE.get(name, 1e-9))
    assert ours[-1] < ours[0] - 0.1  # they went somewhere
    assert abs(ours[-1] - without_decay(run, found)) > 1e-4  # and decay counts


def without_decay(run: RunConfig, found: list[tuple[Tensor, Tensor]]) -> float:
    """Return the last loss of the same run without decay."""
    free = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, weight_decay=0.0))
    return stack_losses(Stack([free], [0], device="cpu", dtype=torch.float64), found)[-1]


@pytest.mark.parametrize("form", [name for name in PARAMETERIZATIONS.names() if not PARAMETERIZATIONS.get(name).unit])
@pytest.mark.parametrize("name", slow_except(PEERS, "adamw", "sgd", "lion"))
def test_no_parameterization_does_anything_at_the_base(name: str, form: str) -> None:
    """Equal to the last bit, with depth rule and budget rule."""
    run = our_run(name, "transformer")
    other = dataclasses.replace(run, parameterization=form, budget="complete")
    other.base = Base(width=WIDTH, depth=2, batch=run.batch, tokens=run.tokens)
    other.branch = dataclasses.replace(run.branch, alpha=1)
    found = batches(run, 5)
    first, second = (Stack([one], [0], device="cpu", dtype=torch.float64) for one in (run, other))
    assert stack_losses(first, found) == stack_losses(second, found)
