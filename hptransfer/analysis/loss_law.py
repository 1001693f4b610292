"""The loss at the optimum against scale: a power of every axis, alone or above a floor.

    log loss = b_0 + sum of b_axis log2(axis)             a power law of the whole loss
    loss = E + sum of A_axis (axis / smallest)^-a_axis    a floor, and a power of what is above it

Both are weighed by how well each predicts the larger scales from the smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from hptransfer.analysis.laws._base import Seen
from hptransfer.analysis.runs import Array, Axes

# What an exponent of the loss is taken to be before any run, and its bounds.
EXPONENT, EXPONENT_SPREAD, STEEPEST = 0.3, 0.3, 2.0
# The least that log losses are taken to scatter about a law: below it are rounding and chance.
LEAST_SCATTER = 1e-4
# Scatter that a floor is first fitted with, against its priors.
FLOOR_NOISE = 0.003
# A floor is fitted anew for every draw, which takes milliseconds; its draws are used several times.
FLOOR_DRAWS = 60

Curve = Callable[[Array, Array], Array]
Fit = Callable[[Array, Array], Array]


@dataclass(frozen=True, eq=False)
class LossLaw:
    """Draws of the log loss at the optimum of any scale.

    Attributes:
        forms: weight, curve, parameters and their draws, and the scatter of scales about it, of each form.
    """

    seen: Seen
    draws: int
    forms: Sequence[tuple[float, Curve, Array, Array, float]]

    def at(self, scale: Axes) -> tuple[float, float, float]:
        """Loss with its 90% interval, nats."""
        octaves = _octaves(self.seen, [scale])
        draws, middle = [], 0.0
        for weight, curve, parameters, drawn, scatter in self.forms:
            count = round(weight * self.draws)
            normal = np.random.default_rng(2).standard_normal(count)
            curves = np.array([curve(own, octaves)[0] for own in drawn])
            draws.append(np.resize(curves, count) + scatter * normal)
            middle += weight * curve(parameters, octaves)[0]
        low, high = np.percentile(np.concatenate(draws), (5, 95))
        return float(np.exp(middle)), float(np.exp(min(low, middle))), float(np.exp(max(high, middle)))


def _octaves(seen: Seen, scales: Sequence[Axes]) -> Array:
    return np.array([[seen.octaves(axis)(scale) for axis in seen.moving] for scale in scales]).reshape(len(scales), -1)


def _power(parameters: Array, octaves: Array) -> Array:
    found: Array = parameters[0] + octaves @ parameters[1:]
    return found


def _floor(parameters: Array, octaves: Array) -> Array:
    """Parameters: log E, then log A and the exponent of each axis."""
    axes = octaves.shape[1]
    above = np.exp(parameters[1 : 1 + axes] - np.log(2.0) * octaves * parameters[1 + axes :])
    found: Array = np.log(np.exp(parameters[0]) + above.sum(axis=1))
    return found


def fit_loss_law(scales: Sequence[Axes], heights: Array, *, draws: int, seed: int) -> LossLaw:
    """
    Args:
        heights: log loss at each scale's optimum; NaN where it is not known.
    """
    known = np.isfinite(heights)
    seen = Seen.of(scales)
    octaves, y = _octaves(seen, scales)[known], heights[known]
    axes = octaves.shape[1]
    fits: list[tuple[Curve, Fit, int, int]] = [(_power, _fit_power, 1 + axes, draws)]
    if axes and len(y) > 2 + 2 * axes:
        fits.append((_floor, _fit_floor, 1 + 2 * axes, FLOOR_DRAWS))
    errors = [_ahead(curve, fit, octaves, y, 2 + 2 * axes) for curve, fit, _, _ in fits]
    steps = max(1, len(y) - (2 + 2 * axes))
    logs = np.array([-steps * np.log(max(error, LEAST_SCATTER)) for error in errors])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    random = np.random.default_rng(seed)
    forms = []
    for weight, (curve, fit, count, count_draws) in zip(weights, fits, strict=True):
        parameters = fit(octaves, y)
        freedom = max(1, len(y) - count)
        scatter = max(LEAST_SCATTER, float(np.sqrt(((y - curve(parameters, octaves)) ** 2).sum() / freedom)))
        fitted = curve(parameters, octaves)
        noisy = fitted + scatter * random.standard_normal((count_draws, len(y)))
        drawn = np.array([fit(octaves, own) for own in noisy])
        forms.append((float(weight), curve, parameters, drawn, scatter))
    return LossLaw(seen, draws, forms)


def _ahead(curve: Curve, fit: Fit, octaves: Array, y: Array, first: int) -> float:
    """Root mean square error of predicting each larger scale from those before it."""
    if len(y) <= first:
        return LEAST_SCATTER
    errors = [curve(fit(octaves[:k], y[:k]), octaves[k : k + 1])[0] - y[k] for k in range(first, len(y))]
    return float(np.sqrt(np.mean(np.square(errors))))


def _fit_power(octaves: Array, y: Array) -> Array:
    columns = np.column_stack([np.ones(len(y)), octaves])
    found: Array = np.linalg.lstsq(columns, y, rcond=None)[0]
    return found


def _spread(axes: int) -> Array:
    """Standard deviations of a floor's parameters before any run."""
    return np.concatenate([np.full(1 + axes, 3.0), np.full(axes, EXPONENT_SPREAD)])


def _fit_floor(octaves: Array, y: Array) -> Array:
    """With weak normals on the logs and exponents, so that a floor that nothing shows stays finite."""
    axes = octaves.shape[1]
    level = float(y.max())
    start = np.concatenate([[level - 0.7], np.full(axes, level - 1.0), np.full(axes, EXPONENT)])
    spread = _spread(axes)

    def misses(parameters: Array) -> Array:
        return np.concatenate([(y - _floor(parameters, octaves)) / FLOOR_NOISE, (parameters - start) / spread])

    low = np.concatenate([np.full(1 + axes, -np.inf), np.zeros(axes)])
    high = np.concatenate([np.full(1 + axes, np.inf), np.full(axes, STEEPEST)])
    found = least_squares(misses, start, bounds=(low, high), max_nfev=200)
    solved: Array = found.x
    return solved
