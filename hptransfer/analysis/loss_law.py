"""The loss at the optimum against scale: a power of every axis, alone or above a floor.

    log loss = b_0 + sum of b_axis log2(axis over its smallest)      a power law of the whole loss
    loss = E + sum of A_axis (axis over its smallest)^-a_axis        a floor, and powers of what is above it

Both are weighed by how well each predicts the larger scales from the smaller ones. E, A and a are
fitted by their logarithms with weak normals, so that a floor that nothing shows stays finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from hptransfer.analysis.laws._base import Seen
from hptransfer.analysis.runs import Array, Axes

# Log losses scatter about a law by this before it is fitted, and by no less than LEAST after.
SCATTER, LEAST = 0.003, 1e-4
# Logs of E and A about the smallest scale's loss, of the exponents about 0.3; standard deviations of a normal.
LEVEL_SPREAD, EXPONENT, EXPONENT_SPREAD = 2.0, 0.3, 0.8
# Log loss per octave, of axes that the scales cannot tell apart: a factor of e^2 an octave is no loss of anything.
SLOPE_SPREAD = 2.0
# Logs of an exponent and of a level beyond which a step of the fit is not followed.
STEEPEST, HIGHEST = 2.0, 50.0
# Of a parameter, for a slope by differences.
STEP = 1e-6


@dataclass(frozen=True, eq=False)
class _Form:
    """One form, fitted: parameters with their covariance, the scatter of scales about it, and its weight."""

    floor: bool
    parameters: Array
    covariance: Array
    scatter: float
    weight: float

    def at(self, octaves: Array) -> tuple[float, float]:
        """Log loss at one scale and its standard error, the scatter of scales included.

        Linear in the parameters' errors: a floor's are large and cancel, and draws of them would not.
        """
        value = float(_curve(self.parameters, octaves, floor=self.floor)[0])
        steps = np.eye(len(self.parameters)) * STEP
        moved = np.array([_curve(self.parameters + step, octaves, floor=self.floor)[0] for step in steps])
        slope = (moved - value) / STEP
        return value, float(np.sqrt(slope @ self.covariance @ slope + self.scatter**2))


@dataclass(frozen=True, eq=False)
class LossLaw:
    """The loss at the optimum of any scale."""

    seen: Seen
    normals: Array
    forms: Sequence[_Form]

    def at(self, scale: Axes) -> tuple[float, float, float]:
        """Loss with its 90% interval, nats."""
        octaves = _octaves(self.seen, [scale])
        draws, middle = [], 0.0
        for form in self.forms:
            value, error = form.at(octaves)
            draws.append(value + error * self.normals[: round(form.weight * len(self.normals))])
            middle += form.weight * value
        low, high = np.percentile(np.concatenate(draws), (5, 95))
        return float(np.exp(middle)), float(np.exp(min(low, middle))), float(np.exp(max(high, middle)))


def fit_loss_law(scales: Sequence[Axes], heights: Array, *, draws: int, seed: int) -> LossLaw:
    """
    Args:
        heights: log loss at each scale's optimum; NaN where it is not known.
    """
    known, seen = np.isfinite(heights), Seen.of(scales)
    octaves, y = _octaves(seen, scales)[known], heights[known]
    first = 2 + 2 * octaves.shape[1]
    choices = (False, True) if octaves.shape[1] and len(y) > first else (False,)
    logs = np.array([-max(1, len(y) - first) * np.log(_ahead(octaves, y, first, floor=floor)) for floor in choices])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    forms = [_form(octaves, y, weight, floor=floor) for floor, weight in zip(choices, weights, strict=True)]
    return LossLaw(seen, np.random.default_rng(seed).standard_normal(draws), forms)


def _octaves(seen: Seen, scales: Sequence[Axes]) -> Array:
    return np.array([[seen.octaves(axis)(scale) for axis in seen.moving] for scale in scales]).reshape(len(scales), -1)


def _curve(parameters: Array, octaves: Array, *, floor: bool) -> Array:
    """Log loss at scales. Parameters: b_0 and b; or logs of E, of each A and of each exponent."""
    axes = octaves.shape[1]
    if not floor:
        plain: Array = parameters[0] + octaves @ parameters[1:]
        return plain
    powers = np.log(2.0) * octaves * np.exp(np.minimum(parameters[1 + axes :], STEEPEST))
    above = np.exp(np.minimum(parameters[1 : 1 + axes], HIGHEST) - powers)
    found: Array = np.log(np.exp(np.minimum(parameters[0], HIGHEST)) + above.sum(axis=1))
    return found


def _fit(octaves: Array, y: Array, *, floor: bool) -> tuple[Array, Array, Array]:
    """Parameters, the curve's derivatives by them, and the precision of what was known of them before."""
    axes = octaves.shape[1]
    if not floor:
        columns = np.column_stack([np.ones(len(y)), octaves])
        return np.linalg.lstsq(columns, y, rcond=None)[0], columns, np.append(0.0, np.full(axes, SLOPE_SPREAD**-2))
    level = float(y.max()) - np.log(2.0)
    start = np.concatenate([np.full(1 + axes, level), np.full(axes, np.log(EXPONENT))])
    spread = np.concatenate([np.full(1 + axes, LEVEL_SPREAD), np.full(axes, EXPONENT_SPREAD)])

    def misses(parameters: Array) -> Array:
        missed = (y - _curve(parameters, octaves, floor=True)) / SCATTER
        return np.concatenate([missed, (parameters - start) / spread])

    found = least_squares(misses, start, method="lm", max_nfev=400)
    slopes: Array = np.asarray(found.jac)[: len(y)] * SCATTER
    return found.x, slopes, spread**-2


def _form(octaves: Array, y: Array, weight: float, *, floor: bool) -> _Form:
    parameters, slopes, precision = _fit(octaves, y, floor=floor)
    left = y - _curve(parameters, octaves, floor=floor)
    scatter = max(LEAST, float(np.sqrt((left**2).sum() / max(1, len(y) - len(parameters)))))
    known = slopes.T @ slopes / scatter**2 + np.diag(precision + 1e-9)
    return _Form(floor, parameters, np.linalg.inv(known), scatter, float(weight))


def _ahead(octaves: Array, y: Array, first: int, *, floor: bool) -> float:
    """Root mean square error of predicting each larger scale from those before it."""
    if len(y) <= first:
        return LEAST
    errors = []
    for k in range(first, len(y)):
        parameters, _, _ = _fit(octaves[:k], y[:k], floor=floor)
        errors.append(_curve(parameters, octaves[k : k + 1], floor=floor)[0] - y[k])
    return max(LEAST, float(np.sqrt(np.mean(np.square(errors)))))
