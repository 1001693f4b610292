"""u-muP's numbers put into a model: every operation keeps values and gradients at unit size (arXiv:2407.17465)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role, unit_scaling
from hptransfer.training.layers import Embedding, Layer, Linear, Residual, Scalar, tagged
from hptransfer.training.operations import Activation, ScaledDotProductAttention, Sum


@dataclass(kw_only=True)
class UnitConfig:
    """u-muP's multipliers, for run.parameterization=umup alone: tunable, like the learning rate, at any size."""

    activation: float = 1.0
    """How sharply gelu and swiglu bend: alpha_ffn-act."""
    attention: float = 1.0
    """Of attention's logits: alpha_attn-softmax."""
    residual: float = 1.0
    """What all residual branches contribute over what the embedding does: alpha_res."""
    attention_ratio: float = 1.0
    """What attention branches contribute over what the others do: alpha_res-attn-ratio."""
    loss: float = 1.0
    """Of the logits in the loss: alpha_loss-softmax."""

    def check(self, place: str) -> None:
        for key, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{place}.{key} must be above 0 and finite, got {value}")

    def changed(self) -> dict[str, float]:
        """Multipliers that are not 1."""
        return {key: value for key, value in vars(self).items() if value != 1}


def useless(model: nn.Module, *, softmax: bool) -> dict[str, str]:
    """Multipliers that would do nothing in a model, each with the reason.

    Args:
        softmax: whether its loss has one.
    """
    modules = list(model.modules())
    found = {}
    if not any(isinstance(one, Activation) and one.name in unit_scaling.SHARPENED for one in modules):
        found["activation"] = f"no {' or '.join(unit_scaling.SHARPENED)}"
    if not any(isinstance(one, ScaledDotProductAttention) for one in modules):
        found["attention"] = found["attention_ratio"] = "no attention"
    if not any(isinstance(one, Residual) for one in modules):
        found["residual"] = "no residual branches"
    if not softmax:
        found["loss"] = "no softmax in its loss"
    return found


def scale_operations(model: nn.Module, units: Sequence[UnitConfig]) -> None:
    """Sets the numbers of every operation but the layers' own multipliers, which must be there.

    Gradients keep their direction: those of a weight get unit size alone; those of the stream, where the readout
    takes it; those of a branch, within it.

    Args:
        units: one a trial.
    """

    def scalar(number: Callable[[UnitConfig], float]) -> Scalar:
        return per_trial([number(unit) for unit in units])

    for item in tagged(model):
        _weights(item.layer, inside=item.inside)
    for module in model.modules():
        if isinstance(module, Sum):
            module.multiplier = 2**-0.5
        elif isinstance(module, Activation):
            _activation(module, scalar)
        elif isinstance(module, ScaledDotProductAttention):
            _attention(module, scalar)
    _branches([module for module in model.modules() if isinstance(module, Residual)], units)


def _weights(layer: Layer, *, inside: bool) -> None:
    """A lookup's rows share its uses; a readout within a branch, such as a router, is not the only way to the loss."""
    rows = layer.weight.shape[1] ** 0.5 if isinstance(layer, Embedding) else 1.0
    layer.gradient = rows / layer.multiplier
    if isinstance(layer, Linear) and layer.role is Role.OUTPUT and not inside:
        layer.backward = layer.fan_out**-0.5 / layer.multiplier


def _activation(module: Activation, scalar: Callable[[Callable[[UnitConfig], float]], Scalar]) -> None:
    if module.name in unit_scaling.SHARPENED:
        module.sharpness = scalar(lambda unit: unit.activation)
        module.multiplier = scalar(lambda unit: unit_scaling.activation(module.name, unit.activation))
    else:
        module.multiplier = unit_scaling.activation(module.name)


def _attention(module: ScaledDotProductAttention, scalar: Callable[[Callable[[UnitConfig], float]], Scalar]) -> None:
    """Logits are over head_dim unless the model chose another scale."""
    chosen = 1.0 if module.chosen is None else module.chosen * module.head_dim
    module.scale = scalar(lambda unit: chosen * unit.attention / module.head_dim)
    module.multiplier = scalar(
        lambda unit: unit_scaling.attention(
            module.positions, module.head_dim, causal=module.causal, sharpness=chosen * unit.attention
        )
    )


def _branches(found: Sequence[Residual], units: Sequence[UnitConfig]) -> None:
    attends = [branch.attends for branch in found]
    taus = [
        unit_scaling.branches(attends, residual=unit.residual, attention_ratio=unit.attention_ratio) for unit in units
    ]  # trials x branches
    for branch, own in zip(found, zip(*taus, strict=True), strict=True):
        weights = [unit_scaling.weighted(tau) for tau in own]
        branch.factor = per_trial([factor for factor, _ in weights])
        branch.skip = per_trial([skip for _, skip in weights])
        branch.gradient = 1 / branch.factor


def per_trial(values: Sequence[float]) -> Scalar:
    """One number if all trials have the same, else a tensor."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values, dtype=torch.float64)
