"""Layers with a leading trial axis, so that one model trains several trials at once.

Letters: K trials of the stack, B sequences, S positions, I fan-in, O fan-out, V vocabulary.
Every parameter has shape (K, ...); the K slices never mix, so each trial's numbers are those that
it would have alone. Layers hold what a parameterization needs to know: role and fan-in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.parameterizations._base import Role
from hptransfer.parameterizations._rules import Rule


class Layer(nn.Module):
    """A module with one weight of a known role. Its output is multiplied by `multiplier`."""

    def __init__(self, shape: tuple[int, ...], *, role: Role, fan_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.role = role
        self.fan_in = fan_in
        self.multiplier = 1.0


class Linear(Layer):
    """x_K...I -> x_K...O, without bias."""

    def __init__(self, trials: int, fan_in: int, fan_out: int, *, role: Role) -> None:
        super().__init__((trials, fan_out, fan_in), role=role, fan_in=fan_in)

    def forward(self, x: Tensor) -> Tensor:
        trials, fan_out, fan_in = self.weight.shape
        if trials == 1:
            y = F.linear(x, self.weight[0])
        else:
            y = torch.bmm(x.reshape(trials, -1, fan_in), self.weight.mT).view(*x.shape[:-1], fan_out)
        return y if self.multiplier == 1.0 else y * self.multiplier


class Embedding(Layer):
    """Indices (...) shared by all trials -> x_K...O. A lookup has fan-in 1: one row is read."""

    def __init__(self, trials: int, num_rows: int, fan_out: int) -> None:
        super().__init__((trials, num_rows, fan_out), role=Role.INPUT, fan_in=1)

    def forward(self, indices: Tensor) -> Tensor:
        trials, num_rows, fan_out = self.weight.shape
        offsets = torch.arange(trials, device=indices.device).view(-1, *[1] * indices.dim()) * num_rows
        y = F.embedding(indices + offsets, self.weight.view(trials * num_rows, fan_out))
        return y if self.multiplier == 1.0 else y * self.multiplier


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without a gain (gains harm transfer: arXiv:2404.05728)."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


@dataclass(frozen=True)
class Tagged:
    """A parameter with what its layer says about it."""

    name: str
    weight: nn.Parameter
    layer: Layer


def tagged(model: nn.Module) -> Iterator[Tagged]:
    """Every parameter with its layer.

    Raises:
        AssertionError: a parameter that no Layer owns, and so has no role; all are named.
    """
    owned = {id(layer.weight): layer for layer in model.modules() if isinstance(layer, Layer)}
    strangers = [name for name, weight in model.named_parameters() if id(weight) not in owned]
    assert not strangers, f"parameters without a role: {', '.join(strangers)}"
    for name, weight in model.named_parameters():
        yield Tagged(name, weight, owned[id(weight)])


def parameterize(model: nn.Module, rules: Mapping[Role, Rule], *, ratio: float, seeds: Sequence[int]) -> None:
    """Sets multipliers and draws initial weights, trial by trial.

    A weight's standard deviation is fan_in^-1/2 at the base width, times its rule. Each (seed,
    parameter) has a random stream of its own, so that a trial starts from the same weights
    whatever it is stacked with.

    Args:
        ratio: width over base width.
        seeds: one a trial.
    """
    for item in tagged(model):
        rule = rules[item.layer.role]
        item.layer.multiplier = rule.multiplier
        grows = item.layer.role in (Role.HIDDEN, Role.OUTPUT)
        base_fan_in = item.layer.fan_in / ratio if grows else item.layer.fan_in
        std = base_fan_in**-0.5 * rule.init_std
        for index, seed in enumerate(seeds):
            stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {item.name}".encode()))
            values = torch.randn(item.weight.shape[1:], generator=stream) * std
            with torch.no_grad():
                item.weight[index] = values.to(item.weight)
