"""Linear problems with exactly known expected loss and best rate.

Each function has its derivation in a line or two; all are checked against simulation. They tell
what a sweep over width, batch or training length must find, without a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lms_loss(
    rate: float, *, dimensions: int, batch: int, steps: int, noise_variance: float = 0.0, start: float = 1.0
) -> float:
    """Return E|w_T - w*|^2, twice the excess loss, after T steps.

    One-pass SGD on y = w*.x + noise with x ~ N(0, I_n).

    With R_t = E|w_t - w*|^2 and sigma^2 the noise variance, from E|g|^2 = R (1 + (n + 1)/B) + sigma^2 n/B:
    R_(t+1) = rho R_t + eta^2 sigma^2 n/B, rho = 1 - 2 eta + eta^2 (1 + (n + 1)/B).

    Args:
        rate: eta, constant, of the gradient of half the squared error's mean over the batch.
        dimensions, batch, steps: n, B, T.
        start: R_0.
    """
    rho = 1 - 2 * rate + rate**2 * (1 + (dimensions + 1) / batch)
    added = rate**2 * noise_variance * dimensions / batch
    risk = start
    for _ in range(steps):
        risk = rho * risk + added
    return risk


def lms_best_rate(*, dimensions: int, batch: int) -> float:
    """Return the best rate of `lms_loss` without noise, for all steps.

    At twice this rate the loss no longer falls.
    """
    return 1 / (1 + (dimensions + 1) / batch)


def power_law(dimensions: int, exponent: float) -> Array:
    """Return j^-exponent, j = 1..d, shape (d,)."""
    return np.arange(1, dimensions + 1, dtype=np.float64) ** -exponent


def power_law_loss(
    rate: float, *, spectrum: Array, start: Array, batch: int, steps: int, noise_variance: float = 0.0
) -> float:
    """Return the expected excess loss after T steps.

    One-pass SGD on Gaussian features of diagonal covariance.

    With m_j = E(w_j - w*_j)^2 and S = sum_j lambda_j m_j, twice the excess loss:
    m_j <- m_j (1 - 2 eta lambda_j + eta^2 lambda_j^2 (1 + 1/B)) + (eta^2 lambda_j/B) (S + sigma^2).

    Args:
        rate: eta, constant, of the gradient of half the squared error's mean over the batch.
        spectrum: lambda_j, (d,); j^-q for a power law.
        start: m_j before the first step, (d,); j^-s for a target of j^(-s/2) and zero weights.
        batch, steps: B, T.
    """
    kept = 1 - 2 * rate * spectrum + rate**2 * spectrum**2 * (1 + 1 / batch)
    spread = rate**2 * spectrum / batch
    m = start
    for _ in range(steps):
        m = m * kept + spread * (spectrum @ m + noise_variance)
    return float(spectrum @ m) / 2


def power_law_largest_rate(*, spectrum: Array, batch: int) -> float:
    """Return the rate above which `power_law_loss` diverges.

    It is where sum_j (eta lambda_j/B) / (2 - eta lambda_j (1 + 1/B)) reaches 1. For lambda_j = j^-q
    it falls as d^-(1 - q) if q < 1, and is constant in d if q > 1.
    """
    low, high = 0.0, 2 / ((1 + 1 / batch) * float(spectrum.max()))
    for _ in range(60):
        middle = (low + high) / 2
        total = np.sum(middle * spectrum / batch / (2 - middle * spectrum * (1 + 1 / batch)))
        low, high = (middle, high) if total < 1 else (low, middle)
    return low


def sign_best_rate(parameters: Array, *, gradient_noise: float, batch: int) -> float:
    """Return the best rate of one step of sign descent.

    A proxy of Adam's, on the isotropic quadratic |theta|^2 / 2.

    A gradient is theta_i + N(0, s^2/B), its sign right with probability (1 + erf(|theta_i| sqrt(B/2)/s))/2:
    eta* = mean_i |theta_i| erf(|theta_i| sqrt(B/2)/s). It grows as sqrt(B) for small batches and
    saturates at mean |theta_i|.

    Args:
        parameters: theta, (n,).
        gradient_noise: s, of a single example; above 0.
        batch: B.
    """
    sizes = np.abs(parameters)
    scale = math.sqrt(batch / 2) / gradient_noise
    return float(np.mean([size * math.erf(size * scale) for size in sizes.tolist()]))


def best_rate(loss: Callable[[float], float], *, low: float, high: float, octaves: float = 0.002) -> float:
    """Return the rate with the smallest loss, to within `octaves`.

    `loss` must have one minimum in log rate between the two rates.
    """
    golden = (math.sqrt(5) - 1) / 2
    left, right = math.log2(low), math.log2(high)
    inner = [right - golden * (right - left), left + golden * (right - left)]
    values = [loss(2**x) for x in inner]
    while right - left > octaves:
        if values[0] < values[1]:
            right = inner[1]
            inner = [right - golden * (right - left), inner[0]]
            values = [loss(2 ** inner[0]), values[0]]
        else:
            left = inner[0]
            inner = [inner[1], left + golden * (right - left)]
            values = [values[1], loss(2 ** inner[1])]
    return float(2 ** ((left + right) / 2))
