"""Quantiles of a mixture of normals, by bisection to floating-point precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from hptransfer.analysis.tables.arrays import Array

# Standard errors about every mean that bracket the quantiles, and bisections of the bracket.
REACH, HALVINGS = 9.0, 60


def quantiles(weights: Array, means: Array, errors: Array, shares: Sequence[float]) -> Array:
    """Return quantiles of several mixtures with common weights.

    Args:
        weights: of the components, (components,); they add up to 1.
        means, errors: of every component, (components, quantities); errors are above 0.
        shares: probabilities below each quantile, between 0 and 1.

    Returns:
        Quantiles, (quantities, shares).
    """
    ends = (means - REACH * errors).min(axis=0), (means + REACH * errors).max(axis=0)
    low, high = (np.repeat(end[:, None], len(shares), axis=1) for end in ends)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = np.einsum("c,cks->ks", weights, ndtr((middle - means[:, :, None]) / errors[:, :, None]))
        low, high = np.where(below < shares, middle, low), np.where(below < shares, high, middle)
    quantile: Array = (low + high) / 2
    return quantile
