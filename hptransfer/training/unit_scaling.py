"""u-muP's numbers, set on a model's operations (arXiv:2407.17465).

Every operation keeps values and gradients at unit size.
"""

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
    """u-muP's multipliers, for run.parameterization=umup only.

    They are tunable at any size, like the learning rate.
    """

    activation: float = 1.0
    """Sharpness of gelu and swiglu: alpha_ffn-act."""
    attention: float = 1.0
    """Multiplier of attention's logits: alpha_attn-softmax."""
    residual: float = 1.0
    """Contribution of all residual branches over that of the embedding: alpha_res."""
    attention_ratio: float = 1.0
    """Contribution of attention branches over that of the others: alpha_res-attn-ratio."""
    loss: float = 1.0
    """Multiplier of the logits in the loss: alpha_loss-softmax."""

    def check(self, place: str) -> None:
        """Raise ConfigError for the first value that breaks a rule."""
        for key, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{place}.{key} must be above 0 and finite, got {value}")

    def changed(self) -> dict[str, float]:
        """Return the multipliers that are not 1."""
        return {key: value for key, value in vars(self).items() if value != 1}


def useless_multipliers(model: nn.Module, *, softmax: bool) -> dict[str, str]:
    """Return multipliers without effect in a model, each with the reason.

    Args:
        softmax: True if the loss has a softmax.
    """
    modules = list(model.modules())
    reasons = {}
    if not any(isinstance(module, Activation) and module.name in unit_scaling.SHARPENED for module in modules):
        reasons["activation"] = f"no {' or '.join(unit_scaling.SHARPENED)}"
    if not any(isinstance(module, ScaledDotProductAttention) for module in modules):
        reasons["attention"] = reasons["attention_ratio"] = "no attention"
    if not any(isinstance(module, Residual) for module in modules):
        reasons["residual"] = "no residual branches"
    if not softmax:
        reasons["loss"] = "no softmax in its loss"
    return reasons


def scale_operations(model: nn.Module, units: Sequence[UnitConfig]) -> None:
    """Set the numbers of every operation after the layers' own multipliers.

    Gradients keep their direction. A weight's gradient alone gets unit size; the stream's gradient gets it at the
    readout's input; a branch's gradient gets it within the branch.

    Args:
        units: one per trial.
    """

    def scalar(number: Callable[[UnitConfig], float]) -> Scalar:
        return per_trial([number(unit) for unit in units])

    for item in tagged(model):
        _scale_weights(item.layer, inside=item.inside)
    for module in model.modules():
        if isinstance(module, Sum):
            module.multiplier = 2**-0.5
        elif isinstance(module, Activation):
            _scale_activation(module, scalar)
        elif isinstance(module, ScaledDotProductAttention):
            _scale_attention(module, scalar)
    _scale_branches([module for module in model.modules() if isinstance(module, Residual)], units)


def _scale_weights(layer: Layer, *, inside: bool) -> None:
    """Set a layer's factors on gradients.

    The rows of a lookup share its uses. A readout within a branch, such as a router, is not the only path to the loss.
    """
    rows = layer.weight.shape[1] ** 0.5 if isinstance(layer, Embedding) else 1.0
    layer.gradient = rows / layer.multiplier
    if isinstance(layer, Linear) and layer.role is Role.OUTPUT and not inside:
        layer.backward = layer.fan_out**-0.5 / layer.multiplier


def _scale_activation(module: Activation, scalar: Callable[[Callable[[UnitConfig], float]], Scalar]) -> None:
    if module.name in unit_scaling.SHARPENED:
        module.sharpness = scalar(lambda unit: unit.activation)
        module.multiplier = scalar(lambda unit: unit_scaling.activation(module.name, unit.activation))
    else:
        module.multiplier = unit_scaling.activation(module.name)


def _scale_attention(
    module: ScaledDotProductAttention, scalar: Callable[[Callable[[UnitConfig], float]], Scalar]
) -> None:
    """Set attention's numbers.

    Logits are divided by head_dim unless the model sets another scale.
    """
    chosen = 1.0 if module.chosen is None else module.chosen * module.head_dim
    module.scale = scalar(lambda unit: chosen * unit.attention / module.head_dim)
    module.multiplier = scalar(
        lambda unit: unit_scaling.attention(
            module.positions, module.head_dim, causal=module.causal, sharpness=chosen * unit.attention
        )
    )


def _scale_branches(branches: Sequence[Residual], units: Sequence[UnitConfig]) -> None:
    attends = [branch.attends for branch in branches]
    taus = [
        unit_scaling.branches(attends, residual=unit.residual, attention_ratio=unit.attention_ratio) for unit in units
    ]  # trials x branches
    for branch, branch_taus in zip(branches, zip(*taus, strict=True), strict=True):
        weights = [unit_scaling.branch_weights(tau) for tau in branch_taus]
        branch.factor = per_trial([factor for factor, _ in weights])
        branch.skip = per_trial([skip for _, skip in weights])
        branch.gradient = 1 / branch.factor


def per_trial(values: Sequence[float]) -> Scalar:
    """Return one number if all trials have the same, else a tensor."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values, dtype=torch.float64)
