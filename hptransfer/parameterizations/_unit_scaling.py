"""Numbers of operations that keep values and gradients at variance one (u-muP, arXiv:2407.17465; 2303.11257).

An operation is multiplied by a number on the way forward, and its gradient by one on the way back. The two may differ
only where all paths to the loss go through one point, as at weights, at the readout and at the ends of a branch:
elsewhere the gradient would point elsewhere. The models of gelu, swiglu and attention are the unit-scaling package's,
fitted there to measured deviations; the other activations' numbers are exact for unit normal inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SHARPENED = ("gelu", "swiglu")
"""Activations f for which f(s x) / s is not f(x) again, so that a sharpness s is something to tune."""

_RELU = math.sqrt(2 / (1 - 1 / math.pi))
_FIXED = {"relu": _RELU, "relu2": 2 / 5**0.5, "tanh": 1.5925374197228304}


def activation(name: str, sharpness: float = 1.0) -> float:
    """One over the standard deviation of f(s x) / s for unit normal x; of swiglu, x g sigmoid(s g)."""
    if name == "gelu":
        return _between(2, _RELU, 1 / (1 + 1 / (4 * sharpness**2)))
    if name == "swiglu":
        return _between(2, 2**0.5, 1 / (1 + 1 / sharpness**2))
    return _FIXED[name]


def attention(positions: int, head_dim: int, *, causal: bool, sharpness: float = 1.0) -> float:
    """One over the standard deviation of attention's outputs, its logits being sharpness * q.k / head_dim.

    Between a flat mean over all positions and a choice of one of them.
    """
    flat = ((math.log(positions) if causal and positions > 1 else 1) / positions) ** 0.5
    return 1 / _between(flat, 1, 1 / (1 + 4 * head_dim / sharpness**2))


def _between(lower: float, upper: float, share: float) -> float:
    """From lower to upper, geometrically."""
    return math.exp(share * math.log(upper) + (1 - share) * math.log(lower))


def branches(attends: Sequence[bool], *, residual: float = 1.0, attention_ratio: float = 1.0) -> list[float]:
    """tau of every residual branch, in order: the stream is (tau F(x) + x) / (1 + tau^2)^1/2 (appendix G).

    Branches of a kind contribute alike, whatever their depth: together residual times as much as the embedding on
    average over kinds, attention attention_ratio times as much as the others.

    Args:
        attends: whether each is an attention branch; blocks have as many branches as there are kinds.
    """
    other = residual * (2 / (1 + attention_ratio**2)) ** 0.5
    shares = [attention_ratio * other if attending else other for attending in attends]
    blocks = len(attends) / max(len(set(attends)), 1)
    return [share / (blocks + sum(s**2 for s in shares[:index])) ** 0.5 for index, share in enumerate(shares)]


def weighted(tau: float) -> tuple[float, float]:
    """What the branch and the stream are multiplied by."""
    return tau / (1 + tau**2) ** 0.5, 1 / (1 + tau**2) ** 0.5


def loss_gradient(terms: int, outputs: int, *, squared: bool) -> float:
    """What makes the gradient of a mean of so many losses one of unit size in each term's outputs, at the start.

    Of cross-entropy at equal logits, (1 - p)^2 once and p^2 elsewhere, p = 1 / outputs; of half the squared error the
    difference of two unit normal numbers.
    """
    return terms * (2**-0.5 if squared else outputs / (outputs - 1) ** 0.5)
