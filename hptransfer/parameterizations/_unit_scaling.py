"""Factors that keep operations' values and gradients at variance one.

Sources: u-muP (arXiv:2407.17465) and unit scaling (arXiv:2303.11257).

An operation has one factor in the forward pass and one on its gradient in the backward pass. The two may differ only
where all paths to the loss go through one point, as at weights, at the readout and at the ends of a branch. Elsewhere
the gradient would change its direction. The models of gelu, swiglu and attention are the unit-scaling package's,
fitted there to measured deviations; the other activations' numbers are exact for unit normal inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SHARPENED = ("gelu", "swiglu")
"""Activations f for which f(s x) / s differs from f(x), so that a sharpness s can be tuned."""

_RELU = math.sqrt(2 / (1 - 1 / math.pi))
_FIXED = {"relu": _RELU, "relu2": 2 / 5**0.5, "tanh": 1.5925374197228304}


def activation(name: str, sharpness: float = 1.0) -> float:
    """Return one over the standard deviation of f(s x) / s.

    x is unit normal; swiglu is x g sigmoid(s g).
    """
    if name == "gelu":
        return _between(2, _RELU, 1 / (1 + 1 / (4 * sharpness**2)))
    if name == "swiglu":
        return _between(2, 2**0.5, 1 / (1 + 1 / sharpness**2))
    return _FIXED[name]


def attention(positions: int, head_dim: int, *, causal: bool, sharpness: float = 1.0) -> float:
    """Return one over the standard deviation of attention's outputs.

    Logits are sharpness * q.k / head_dim. The model lies between a flat mean over all positions and a choice of one.
    """
    flat = ((math.log(positions) if causal and positions > 1 else 1) / positions) ** 0.5
    return 1 / _between(flat, 1, 1 / (1 + 4 * head_dim / sharpness**2))


def _between(lower: float, upper: float, share: float) -> float:
    """Interpolate geometrically from lower to upper."""
    return math.exp(share * math.log(upper) + (1 - share) * math.log(lower))


def branches(attends: Sequence[bool], *, residual: float = 1.0, attention_ratio: float = 1.0) -> list[float]:
    """Return tau of every residual branch, in order (appendix G).

    The stream is (tau F(x) + x) / (1 + tau^2)^1/2. Branches of a kind, attention or other, contribute alike at every
    depth. On average over kinds they contribute `residual` times as much as the embedding. Attention contributes
    `attention_ratio` times as much as the others.

    Args:
        attends: True for each attention branch; blocks have one branch of every kind.
    """
    share_of_others = residual * (2 / (1 + attention_ratio**2)) ** 0.5
    shares = [attention_ratio * share_of_others if attending else share_of_others for attending in attends]
    blocks = len(attends) / max(len(set(attends)), 1)
    return [share / (blocks + sum(s**2 for s in shares[:index])) ** 0.5 for index, share in enumerate(shares)]


def branch_weights(tau: float) -> tuple[float, float]:
    """Return the factors of the branch and of the stream."""
    return tau / (1 + tau**2) ** 0.5, 1 / (1 + tau**2) ** 0.5


def loss_gradient(terms: int, outputs: int, *, squared: bool) -> float:
    """Return the factor that gives a mean loss's initial gradient unit size.

    The gradient is that in each term's outputs. Squared entries of cross-entropy's gradient at equal logits are
    (1 - p)^2 once and p^2 elsewhere, p = 1 / outputs. Half the squared error has as gradient the difference of two unit
    normal numbers.

    Args:
        terms: number of losses in the mean.
        outputs: outputs of a term.
        squared: True for half the squared error, False for cross-entropy.
    """
    return terms * (2**-0.5 if squared else outputs / (outputs - 1) ** 0.5)
