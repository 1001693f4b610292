"""The loss at the optimum against scale: powers above a floor that nobody knows, or one power of the whole loss.

    loss = E + sum of A_axis (axis over its smallest)^-a_axis        a floor, and powers of what is above it
    log loss = b_0 + sum of b_axis log2(axis over its smallest)      a power law of the whole loss

A handful of scales hardly shows the floor, and the loss of a large target hangs on it. So the floor is
integrated over a grid of shares of the least loss, and the scatter of scales about the law over another;
every pair is a component, weighed by its evidence (by Laplace's method: the posterior of A and a is taken
as normal about its mode).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.statistics.quantiles import quantiles
from hptransfer.analysis.tables.arrays import Array, Axes

# Shares of the least loss that was seen, all as likely before any run.
FLOORS = tuple(k / 50 for k in range(50))
# Log losses scatter about a law by one of these; before any run by a half-Cauchy about this scale.
SCATTERS, SCATTER_SCALE = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032), 0.003
# What the power of the whole loss weighs before any run, beside all floors.
PLAIN = 0.2
# Normals before any run, (mean, deviation): log of A about an axis's share of what is above the floor at the smallest
# scale, log of a about 0.3, and log loss an octave in a power of the whole loss.
LEVEL_SPREAD, EXPONENT, SLOPE = 1.0, (np.log(0.3), 0.6), (-0.05, 0.15)
# Log of the loss at the smallest scale, about what was seen there.
FIRST_SPREAD = 1.0
# Logs of an exponent beyond which a step of the fit is not followed.
STEEPEST = 2.0
STEPS, DAMPING = 40, 1e-3


@dataclass(frozen=True, eq=False)
class _Components:
    """One form at every floor and scatter of its grid.

    Attributes:
        floors: E in units of the loss, (components,); None for a power of the whole loss.
        parameters: (components, parameters), with their `covariance`.
        scatter: of log losses about the law, (components,).
        log_weight: (components,).
    """

    floors: Array | None
    parameters: Array
    covariance: Array
    scatter: Array
    log_weight: Array

    def at(self, octaves: Array) -> tuple[Array, Array]:
        """Log loss at one scale and its standard error, the scatter of scales included, (components,)."""
        value, slopes = _curve(self.parameters, octaves, self.floors)
        variance = np.einsum("gp,gpq,gq->g", slopes[:, 0], self.covariance, slopes[:, 0])
        return value[:, 0], np.sqrt(variance + self.scatter**2)


@dataclass(frozen=True, eq=False)
class LossLaw:
    """The loss at the optimum of any scale."""

    seen: SweptAxes
    forms: Sequence[_Components]

    def at(self, scale: Axes) -> tuple[float, float, float]:
        """Loss with its 90% interval, nats."""
        octaves = _octaves(self.seen, [scale])
        values, errors = (
            np.concatenate(parts) for parts in zip(*(form.at(octaves) for form in self.forms), strict=True)
        )
        logs = np.concatenate([form.log_weight for form in self.forms])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        middle = float(weights @ values)
        low, high = quantiles(weights, values[:, None], errors[:, None], (0.05, 0.95))[0]
        return float(np.exp(middle)), float(np.exp(min(low, middle))), float(np.exp(max(high, middle)))


def fit_loss_law(scales: Sequence[Axes], intercepts: Array) -> LossLaw:
    """
    Args:
        intercepts: log loss at each scale's optimum; NaN where it is not known.
    """
    known, seen = np.isfinite(intercepts), SweptAxes.of(scales)
    octaves, y = _octaves(seen, scales)[known], intercepts[known]
    return LossLaw(seen, _forms(octaves, y))


def _octaves(seen: SweptAxes, scales: Sequence[Axes]) -> Array:
    return np.array([[seen.octaves(axis)(scale) for axis in seen.moving] for scale in scales]).reshape(len(scales), -1)


def _forms(octaves: Array, y: Array) -> list[_Components]:
    axes = octaves.shape[1]
    first = float(y[np.argmin(octaves.sum(axis=1))])
    plain = np.array([[first, *np.full(axes, SLOPE[0])]]), np.array([FIRST_SPREAD, *np.full(axes, SLOPE[1])])
    found = [_fitted(octaves, y, None, *plain, np.log([PLAIN if axes else 1.0]))]
    if axes:
        floors = np.array(FLOORS) * np.exp(y.min())
        level = np.log((np.exp(first) - floors) / axes)
        means = np.column_stack([*[level] * axes, *[np.full(len(floors), EXPONENT[0])] * axes])
        deviations = np.repeat([LEVEL_SPREAD, EXPONENT[1]], axes)
        share = np.full(len(floors), np.log((1 - PLAIN) / len(floors)))
        found.append(_fitted(octaves, y, floors, means, deviations, share))
    return found


def _curve(parameters: Array, octaves: Array, floors: Array | None) -> tuple[Array, Array]:
    """Log loss at scales, (components, scales), and its slopes, (components, scales, parameters).

    Parameters: b_0 and b; or the logs of each A and of each a.
    """
    axes = octaves.shape[1]
    if floors is None:
        columns = np.column_stack([np.ones(len(octaves)), octaves])
        return parameters @ columns.T, np.broadcast_to(columns, (len(parameters), *columns.shape))
    powers = np.log(2.0) * octaves * np.exp(np.minimum(parameters[:, None, axes:], STEEPEST))
    above = np.exp(parameters[:, None, :axes] - powers)
    loss = floors[:, None] + above.sum(axis=2)
    share = above / loss[:, :, None]
    return np.log(loss), np.concatenate([share, -share * powers], axis=2)


def _fitted(
    octaves: Array, y: Array, floors: Array | None, means: Array, deviations: Array, log_share: Array
) -> _Components:
    """The mode at every floor and scatter, by Gauss-Newton steps that are damped where the objective does not fall."""
    scatter = np.tile(SCATTERS, len(means))
    means = np.repeat(means, len(SCATTERS), axis=0)
    floors = None if floors is None else np.repeat(floors, len(SCATTERS))
    prior = np.diag(deviations**-2.0)

    def linearized(parameters: Array) -> tuple[Array, Array, Array]:
        value, slopes = _curve(parameters, octaves, floors)
        left, off = (y - value) / scatter[:, None], (parameters - means) / deviations
        return left, slopes / scatter[:, None, None], (left**2).sum(axis=1) + (off**2).sum(axis=1)

    parameters, damping = means.copy(), np.full(len(means), DAMPING)
    left, slopes, objective = linearized(parameters)
    for _ in range(STEPS):
        normal = np.swapaxes(slopes, 1, 2) @ slopes + prior
        information_vector = np.einsum("gsp,gs->gp", slopes, left) - (parameters - means) * deviations**-2.0
        damped = normal + damping[:, None, None] * normal * np.eye(len(prior))
        tried = parameters + np.clip(np.linalg.solve(damped, information_vector[:, :, None])[:, :, 0], -1, 1)
        left_tried, slopes_tried, reached = linearized(tried)
        better = reached <= objective
        damping = np.where(better, damping / 5, np.minimum(damping * 8, 1e8))
        gained = np.where(better, objective - reached, 0.0)
        parameters, left, slopes, objective = (
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in ((tried, parameters), (left_tried, left), (slopes_tried, slopes), (reached, objective))
        )
        if better.all() and gained.max() < 1e-6:
            break
    normal = np.swapaxes(slopes, 1, 2) @ slopes + prior
    evidence = -0.5 * objective - len(y) * np.log(scatter) - 0.5 * np.linalg.slogdet(normal)[1]
    evidence -= np.log(deviations).sum()
    scatters = np.log(scatter) - np.log1p((scatter / SCATTER_SCALE) ** 2)
    log_weight = evidence + scatters + np.repeat(log_share, len(SCATTERS))
    return _Components(floors, parameters, np.linalg.inv(normal), scatter, log_weight)
