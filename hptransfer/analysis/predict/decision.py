"""Recommended values, which lose least in expectation under the whole posterior.

A draw of the posterior is an optimum at the scale, from the average over laws, and a form of the response surface. The
loss of a value is the mean over draws of the response above the optimum, plus that of a divergence times its
probability. A run that diverges, or ends far above the optimum, is trained again. It costs what the same compute would
have bought, so both losses are capped at RETRAINED.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, minimize

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.tables.arrays import Array, Axes, Mask

# Log loss that twice the compute buys, about: the loss of language models falls as the power 0.05 of compute
# (arXiv:2001.08361), by 0.035 an octave.
RETRAINED = 0.05
DRAWS = 256
# Log loss up to which the risk counts a draw; a response surface says nothing beyond.
MOST_EXCESS = 1.0
EVEN_ODDS = 0.5
# Octaves below the interval in which a decision is searched where all of the interval is beyond even odds.
BELOW = 4.0


@dataclass(frozen=True, eq=False)
class Decision:
    """Recommended values of one scale, and what they risk.

    Attributes:
        value: log2 of the recommended values, (tuned,).
        center, low, high: mean and 90% interval of the optimum's posterior, log2, (tuned,).
        expected, p90: mean and 90th percentile of the loss above the optimum, of a run that does not diverge; NaN for
            an estimator without a response surface. `expected_percent` and `p90_percent` are in percent of the loss;
            NaN where differences are fitted.
        p_diverge: probability that the run diverges; NaN if no run diverged.
        stable_below: log2 of the value of even odds, the others as recommended, (tuned,); NaN where there is none.
        outside_tried: True where the value lies outside all tried ones, (tuned,).
    """

    value: Array
    center: Array
    low: Array
    high: Array
    expected: float
    p90: float
    expected_percent: float
    p90_percent: float
    p_diverge: float
    stable_below: Array
    outside_tried: Mask


def decide(fit: Fit, scale: Axes) -> Decision:
    """Return the decision for a scale.

    Raises:
        FitError: the scale differs on an axis of which only one value was swept.
    """
    center, low, high = fit.predict(scale).T
    posterior = _Posterior.of(fit, scale, center)
    value = posterior.best(center, low, high)
    excess, loss = posterior.excess(value), fit.predict_loss(scale)[0]
    losses = (fit.runs.response.excess_loss(size, loss) for size in (excess, np.quantile(excess, [0.9])))
    expected, p90 = (float(above.mean()) for above in losses)
    divergence, tuned = fit.divergence, range(len(fit.tuned))
    tried = fit.runs.x
    return Decision(
        value=value,
        center=center,
        low=low,
        high=high,
        expected=expected,
        p90=p90,
        expected_percent=fit.runs.response.percent(expected, loss),
        p90_percent=fit.runs.response.percent(p90, loss),
        p_diverge=divergence.probability(value, scale).item() if divergence else float("nan"),
        stable_below=np.array([divergence.edge(value, scale, k) if divergence else np.nan for k in tuned]),
        outside_tried=(value < tried.min(axis=0)) | (value > tried.max(axis=0)),
    )


def optimum_draws(fit: Fit, scale: Axes, center: Array) -> Array:
    """Return draws of a scale's optimum, log2, widened as its interval is.

    Args:
        center: log2 of the optimum's mean, (tuned,).

    Returns:
        (DRAWS, tuned).
    """
    draws = fit.mixture.new_scale_draws(scale, DRAWS)
    widened: Array = center + fit.widening.factor * (draws - fit.mixture.mean([scale])[0])
    return widened


@dataclass(frozen=True, eq=False)
class _Posterior:
    """Draws of the optimum at a scale, by form of response.

    Attributes:
        optima: log2 of the optimum, by form, each (draws, tuned).
    """

    fit: Fit
    scale: Axes
    optima: list[Array]

    @classmethod
    def of(cls, fit: Fit, scale: Axes, center: Array) -> _Posterior:
        widened = optimum_draws(fit, scale, center)
        forms = len(fit.surfaces)
        return cls(fit, scale, [widened[form::forms] for form in range(forms)])

    def excess(self, x: Array) -> Array:
        """Return the response above each draw's optimum at x, (draws,)."""
        octaves = self.fit.runs.octaves([self.scale])
        parts = [
            surface.shape.excess(x - optima, np.tile(octaves, (len(optima), 1)))
            for surface, optima in zip(self.fit.surfaces, self.optima, strict=True)
        ]
        excess: Array = np.minimum(np.concatenate(parts), MOST_EXCESS)
        return excess

    def expected(self, x: Array) -> float:
        """Return the expected response of x, capped at RETRAINED."""
        of_run = float(np.minimum(self.excess(x), RETRAINED).mean())
        divergence = self.fit.divergence
        if divergence is None:
            return of_run
        p = divergence.probability(x, self.scale).item()
        barrier = max(0.0, p - EVEN_ODDS)  # never beyond even odds, whatever the bowl
        return (1 - p) * of_run + p * RETRAINED + barrier

    def best(self, center: Array, low: Array, high: Array) -> Array:
        """Return log2 of the values that lose least within the interval.

        Where the whole interval is beyond even odds of divergence, lower values count too.
        """
        start, divergence = center, self.fit.divergence
        if divergence is not None:
            steps = low - np.outer(np.linspace(0, BELOW, 33), np.where(divergence.has_edge, 1.0, 0.0))
            path = np.vstack([center, steps])
            stable = np.flatnonzero(divergence.probability(path, self.scale) <= EVEN_ODDS)
            start = path[stable[0]] if len(stable) else center
            low = np.minimum(low, start)
        width = np.maximum(high - low, 1e-6)
        simplex = np.vstack([start, start + np.where(start - low > high - start, -1, 1) * np.diag(width / 4)])
        found: Array = minimize(
            self.expected,
            np.asarray(start, dtype=np.float64),
            method="Nelder-Mead",
            bounds=Bounds(low, low + width),
            options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-9, "maxiter": 200 * len(start)},
        ).x
        return found
