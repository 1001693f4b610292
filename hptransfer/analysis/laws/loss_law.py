"""Law of the optimum's loss: floor plus powers, or one power.

    loss = E + sum of A_axis (axis over its smallest)^-a_axis        a floor plus a power of each axis
    log loss = b_0 + sum of b_axis log2(axis over its smallest)      a power law of the whole loss

Where differences are fitted, the response (tables/response.py) takes the place of both the loss and its logarithm.

A few scales hardly determine the floor, but the loss of a large target depends on it. So the floor is integrated over a
grid of shares of the least loss, and the scatter of scales about the law over another. Every pair is a component,
weighted by its evidence by Laplace's method: the posterior of A and a is approximated by a normal about its mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.laws.forms import SweptAxes
from hptransfer.analysis.statistics.quantiles import quantiles
from hptransfer.analysis.tables.arrays import LOG_RESPONSE, Array, Axes
from hptransfer.analysis.tables.response import Response

# Floors as shares of the least measured loss, with equal prior weights.
FLOORS = tuple(k / 50 for k in range(50))
# Grid of the scatter of responses about a law, with a half-Cauchy prior of this scale.
LOSS_SCATTERS, LOSS_SCATTER_SCALE = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032), 0.003
# Prior weight of the power of the whole loss; all floors share the rest.
POWER_WEIGHT = 0.2
# Normal priors, (mean, deviation): log of A about an axis's share of the loss above the floor at the smallest scale,
# log of a about 0.3, and the response per octave in a power of the whole loss.
LEVEL_SPREAD, EXPONENT, SLOPE = 1.0, (np.log(0.3), 0.6), (-0.05, 0.15)
# Deviation of the response at the smallest scale about its measured value.
FIRST_SPREAD = 1.0
# Upper limit of the log of an exponent during the fit.
LARGEST_LOG_EXPONENT = 2.0
LOSS_LAW_STEPS, DAMPING = 40, 1e-3


@dataclass(frozen=True, eq=False)
class _Components:
    """One form of the law on its grid of floors and scatters.

    Attributes:
        response: that of the fitted losses.
        floors: E in the unit of the law, (components,); None for a power of the whole loss.
        parameters: (components, parameters), with their `covariance`.
        scatter: of responses about the law, (components,).
        log_weight: (components,).
    """

    response: Response
    floors: Array | None
    parameters: Array
    covariance: Array
    scatter: Array
    log_weight: Array

    def at(self, octaves: Array) -> tuple[Array, Array]:
        """Return the response at one scale and its standard error, (components,).

        The error includes the scatter of scales.
        """
        value, slopes = _responses(self.parameters, octaves, self.floors, self.response)
        variance = np.einsum("gp,gpq,gq->g", slopes[:, 0], self.covariance, slopes[:, 0])
        return value[:, 0], np.sqrt(variance + self.scatter**2)


@dataclass(frozen=True, eq=False)
class LossLaw:
    """Law of the loss at the optimum."""

    swept: SweptAxes
    response: Response
    forms: Sequence[_Components]

    def at(self, scale: Axes) -> tuple[float, float, float]:
        """Return the loss at a scale with its 90% interval.

        The loss is to be minimized.
        """
        octaves = _octaves(self.swept, [scale])
        values, errors = (
            np.concatenate(parts) for parts in zip(*(form.at(octaves) for form in self.forms), strict=True)
        )
        logs = np.concatenate([form.log_weight for form in self.forms])
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        middle = float(weights @ values)
        low, high = quantiles(weights, values[:, None], errors[:, None], (0.05, 0.95))[0]
        value, lowest, highest = self.response.loss(np.array([middle, min(low, middle), max(high, middle)]))
        return float(value), float(lowest), float(highest)


def fit_loss_law(scales: Sequence[Axes], intercepts: Array, response: Response = LOG_RESPONSE) -> LossLaw:
    """Fit the law to the losses at the optima.

    Args:
        intercepts: response at each scale's optimum; NaN where unknown.
    """
    measured, swept = np.isfinite(intercepts), SweptAxes.of(scales)
    octaves, y = _octaves(swept, scales)[measured], intercepts[measured]
    return LossLaw(swept, response, _fitted_forms(octaves, y, response))


def _octaves(swept: SweptAxes, scales: Sequence[Axes]) -> Array:
    return np.array([[swept.octaves(axis)(scale) for axis in swept.moving] for scale in scales]).reshape(
        len(scales), -1
    )


def _fitted_forms(octaves: Array, y: Array, response: Response) -> list[_Components]:
    axes = octaves.shape[1]
    first = float(y[np.argmin(octaves.sum(axis=1))])
    prior = np.array([[first, *np.full(axes, SLOPE[0])]]), np.array([FIRST_SPREAD, *np.full(axes, SLOPE[1])])
    forms = [_fitted_components(octaves, y, response, None, *prior, np.log([POWER_WEIGHT if axes else 1.0]))]
    if axes:
        if response.unit is None:
            floors, of_first = np.array(FLOORS) * np.exp(y.min()), np.exp(first)
        else:  # a response has no zero: the floors lie up to one unit below the least
            floors, of_first = y.min() - 1 + np.array(FLOORS), first
        level = np.log((of_first - floors) / axes)
        means = np.column_stack([*[level] * axes, *[np.full(len(floors), EXPONENT[0])] * axes])
        deviations = np.repeat([LEVEL_SPREAD, EXPONENT[1]], axes)
        log_share = np.full(len(floors), np.log((1 - POWER_WEIGHT) / len(floors)))
        forms.append(_fitted_components(octaves, y, response, floors, means, deviations, log_share))
    return forms


def _responses(parameters: Array, octaves: Array, floors: Array | None, response: Response) -> tuple[Array, Array]:
    """Return the response at scales and its slopes by the parameters.

    Args:
        parameters: b_0 and b, or the logs of each A and of each a, (components, parameters).

    Returns:
        (components, scales) and (components, scales, parameters).
    """
    axes = octaves.shape[1]
    if floors is None:
        columns = np.column_stack([np.ones(len(octaves)), octaves])
        return parameters @ columns.T, np.broadcast_to(columns, (len(parameters), *columns.shape))
    powers = np.log(2.0) * octaves * np.exp(np.minimum(parameters[:, None, axes:], LARGEST_LOG_EXPONENT))
    above = np.exp(parameters[:, None, :axes] - powers)
    loss = floors[:, None] + above.sum(axis=2)
    share = above / loss[:, :, None] if response.unit is None else above
    return (np.log(loss) if response.unit is None else loss), np.concatenate([share, -share * powers], axis=2)


def _fitted_components(
    octaves: Array,
    y: Array,
    response: Response,
    floors: Array | None,
    means: Array,
    deviations: Array,
    log_share: Array,
) -> _Components:
    """Fit the mode at every floor and scatter, by damped Gauss-Newton steps."""
    scatter = np.tile(LOSS_SCATTERS, len(means))
    means = np.repeat(means, len(LOSS_SCATTERS), axis=0)
    floors = None if floors is None else np.repeat(floors, len(LOSS_SCATTERS))
    prior = np.diag(deviations**-2.0)

    def linearized(parameters: Array) -> tuple[Array, Array, Array]:
        value, slopes = _responses(parameters, octaves, floors, response)
        residuals, prior_residuals = (y - value) / scatter[:, None], (parameters - means) / deviations
        return residuals, slopes / scatter[:, None, None], (residuals**2).sum(axis=1) + (prior_residuals**2).sum(axis=1)

    parameters, damping = means.copy(), np.full(len(means), DAMPING)
    residuals, slopes, objective = linearized(parameters)
    for _ in range(LOSS_LAW_STEPS):
        normal = np.swapaxes(slopes, 1, 2) @ slopes + prior
        information_vector = np.einsum("gsp,gs->gp", slopes, residuals) - (parameters - means) * deviations**-2.0
        damped = normal + damping[:, None, None] * normal * np.eye(len(prior))
        tried = parameters + np.clip(np.linalg.solve(damped, information_vector[:, :, None])[:, :, 0], -1, 1)
        residuals_tried, slopes_tried, reached = linearized(tried)
        better = reached <= objective
        damping = np.where(better, damping / 5, np.minimum(damping * 8, 1e8))
        gained = np.where(better, objective - reached, 0.0)
        parameters, residuals, slopes, objective = (
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in (
                (tried, parameters),
                (residuals_tried, residuals),
                (slopes_tried, slopes),
                (reached, objective),
            )
        )
        if better.all() and gained.max() < 1e-6:
            break
    normal = np.swapaxes(slopes, 1, 2) @ slopes + prior
    evidence = -0.5 * objective - len(y) * np.log(scatter) - 0.5 * np.linalg.slogdet(normal)[1]
    evidence -= np.log(deviations).sum()
    scatters = np.log(scatter) - np.log1p((scatter / LOSS_SCATTER_SCALE) ** 2)
    log_weight = evidence + scatters + np.repeat(log_share, len(LOSS_SCATTERS))
    return _Components(response, floors, parameters, np.linalg.inv(normal), scatter, log_weight)
