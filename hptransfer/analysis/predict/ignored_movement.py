"""Movement of the optimum to a target, and its cost if ignored.

A draw of the posterior is an optimum at the target, from the average over laws, and a response: a form of the surface,
its parameters by Laplace's method, and the error of the form. Its loss is that of the reused values above the drawn
optimum. The interval therefore widens with the distance from the optimum, where few runs show the response.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from hptransfer.analysis.laws.exponents import INTERVAL, NORMAL_95
from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.predict.decision import DRAWS, EVEN_ODDS, optimum_draws
from hptransfer.analysis.tables.arrays import Array, Axes
from hptransfer.analysis.tables.response import Response
from hptransfer.core.records import Objective, short

# Response above the optimum at which a draw is cut off, so that far reuse does not overflow.
LARGEST_EXCESS = 20.0
# Octaves within which runs show the response at a reused value, and the number of runs that the fit is worth.
NEAR_OCTAVES, PRIOR_RUNS = 0.5, 2.0
# Smallest share of the loss that a sentence tells from nothing.
LEAST_SHARE = 1e-4
# Smallest probability of divergence that a sentence names.
LEAST_RISK = 0.05


@dataclass(frozen=True)
class Range:
    """Value with its 90% interval."""

    value: float
    low: float
    high: float

    def text(self, least: float = 0.0) -> str:
        """Return the value and its interval with two digits.

        Args:
            least: smaller numbers are shown as 0.
        """
        numbers = (0.0 if number < least else float(f"{number:.2g}") for number in (self.value, self.low, self.high))
        value, low, high = map(short, numbers)
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class IgnoredLoss:
    """Loss added by training a target with a smaller scale's values.

    Attributes:
        nats: median over the posterior with its 90% interval, of a run that does not diverge, in the unit of the loss.
        loss: at the target's optimum, to be minimized.
        most_measured: largest loss of a sound run above its scale's optimum.
        p_diverge: probability that the run diverges; 0 if no run diverged.
        response, objective: of the fit.
    """

    nats: Range
    loss: float
    most_measured: float
    p_diverge: float
    response: Response
    objective: Objective

    @property
    def diverges(self) -> bool:
        """True if the run diverges more likely than not."""
        return self.p_diverge > EVEN_ODDS

    @property
    def beyond_runs(self) -> bool:
        """True if the whole interval is above the largest measured loss."""
        return self.nats.low > self.most_measured

    def sentence(self) -> str:
        """Return the loss in words, with its interval and in percent.

        It has no percentage where differences are fitted.
        """
        if self.diverges:
            return f"more likely than not a divergence (with a probability of {self.p_diverge:.0%})"
        least = LEAST_SHARE * self.response.slope(self.loss)
        if self.nats.high < least:
            return f"less than {self._percent_of(least) or self._amount(short(float(f'{least:.2g}')))}"
        nats = self.nats.text(least)
        if self.beyond_runs:
            most = short(float(f"{self.most_measured:.2g}"))
            return f"more than {self._amount(most)}, the most that any run lost (extrapolated: {nats})"
        words = ", ".join(filter(None, (self._amount(nats), self._percent_of(self.nats.value))))
        if self.p_diverge > LEAST_RISK:
            words += f", or a divergence with a probability of {self.p_diverge:.0%}"
        return words

    def json(self) -> dict[str, float]:
        """Return the content of a JSON file."""
        return {**asdict(self.nats), "p_diverge": self.p_diverge}

    def text(self, digits: int) -> str:
        """Return the loss for a table, or that the run diverges."""
        return "diverges" if self.diverges else f"{'over ' * self.beyond_runs}{self._shown:.{digits}f}"

    def percent(self) -> str:
        """Return the loss in percent of the target's, for a table.

        Blank where differences are fitted.
        """
        percent = self.response.percent(self._shown, self.loss)
        if self.diverges or math.isnan(percent):
            return "diverges" if self.diverges else ""
        return f"{'over ' * self.beyond_runs}{percent:.2g}%"

    @property
    def _shown(self) -> float:
        return self.most_measured if self.beyond_runs else self.nats.value

    def _percent_of(self, above: float) -> str:
        percent = self.response.percent(above, self.loss)
        return "" if math.isnan(percent) else f"{float(f'{percent:.2g}'):g}% of the loss"

    def _amount(self, text: str) -> str:
        """Return a loss's text with its unit, or with its name."""
        of_metric = self.response.unit is not None and not self.objective.unit
        return self.objective.with_unit(text) + (f" of {self.objective.name}" if of_metric else "")


@dataclass(frozen=True)
class Movement:
    """Movement of one optimum along one axis to the target.

    Attributes:
        factor: the target's optimum over the one that it would have at the axis's smallest swept value.
        ignored: loss at the target if the optimum is taken to stay along this axis.
    """

    factor: Range
    ignored: IgnoredLoss

    def sentence(self) -> str:
        """Return the factor and the loss in words."""
        return f"a factor of {self.factor.text()} to the target; ignoring it would cost {self.ignored.sentence()}"


def loss_of_reuse(fit: Fit, scale: Axes, values: Array) -> IgnoredLoss:
    """Return the loss that a scale adds by training with given values.

    Args:
        values: log2 of the tuned values, (tuned,).
    """
    draws = optimum_draws(fit, scale, fit.predict(scale)[:, 0])
    return _ignored_loss(fit, scale, values - draws, values)


def movement(fit: Fit, tuned: int, axis: str, target: Mapping[str, float]) -> Movement:
    """Return the movement of a hyperparameter's optimum along an axis.

    Args:
        tuned: index of the hyperparameter.
    """
    scales = [target, {**target, axis: fit.swept.values[axis][0]}]
    mean, draws = fit.mixture.mean(scales)[:, tuned], fit.mixture.draws(scales)[:, :, tuned]
    shift = float(mean[0] - mean[1])
    drawn = shift + fit.widening.factor[tuned] * (draws[:, 0] - draws[:, 1] - shift)
    low, high = np.percentile(drawn, INTERVAL)
    factor = Range(*(float(2.0**octaves) for octaves in (shift, min(low, shift), max(high, shift))))
    reused = fit.predict(target)[:, 0]
    reused[tuned] -= shift
    away = np.zeros((len(drawn), len(reused)))
    away[:, tuned] = -drawn
    return Movement(factor, _ignored_loss(fit, target, away[:: max(1, len(away) // DRAWS)], reused))


def _ignored_loss(fit: Fit, scale: Axes, away: Array, values: Array) -> IgnoredLoss:
    """Return the loss over draws of the response.

    Args:
        away: octaves from each draw's optimum, (draws, tuned).
        values: log2 of the values, (tuned,), which place the probability of divergence.
    """
    random = np.random.default_rng(0)
    octaves = fit.runs.octaves([scale])
    excess = np.empty(len(away))
    for form, surface in enumerate(fit.surfaces):
        draws = range(form, len(away), len(fit.surfaces))
        thetas = random.multivariate_normal(surface.shape.theta, surface.shape_covariance, len(draws), method="eigh")
        ratio = _measured_over_fitted(fit, surface, away.mean(axis=0))
        form_errors = np.exp(surface.discrepancy * random.standard_normal(len(draws)))
        for draw, theta, error in zip(draws, thetas, form_errors, strict=True):
            shape = replace(surface.shape, theta=theta)
            excess[draw] = ratio * error * shape.excess(away[draw][None], octaves)[0]
    response, interval = fit.runs.response, np.array(fit.predict_loss(scale))
    loss, low, high = response.of(interval)
    losses = response.loss(loss + (high - low) / (2 * NORMAL_95) * random.standard_normal(len(away)))
    added = response.excess_loss(np.minimum(excess, LARGEST_EXCESS), losses)
    low, value, high = np.percentile(added, (INTERVAL[0], 50, INTERVAL[1]))
    return IgnoredLoss(
        nats=Range(float(value), float(low), float(high)),
        loss=float(interval[0]),
        most_measured=fit.largest_excess,
        p_diverge=fit.divergence.probability(values, scale).item() if fit.divergence else 0.0,
        response=response,
        objective=fit.columns.objective,
    )


def _measured_over_fitted(fit: Fit, surface: ResponseSurface, away: Array) -> float:
    """Return the ratio of measured to fitted response above the optimum.

    It is that of the runs about as far from their own optimum. The surface is fitted for its minimum: far runs have
    little weight there, but show the loss of reuse. Far from all runs the ratio is 1.

    Args:
        away: octaves from the optimum, (tuned,).
    """
    runs = fit.runs
    octaves = runs.x[surface.runs] - surface.x[runs.scale[surface.runs]]
    weights = surface.sound * np.exp(-0.5 * (((octaves - away) / NEAR_OCTAVES) ** 2).sum(axis=1))
    fitted = float(weights @ surface.excess)
    typical = fitted / max(float(weights.sum()), 1e-300)
    measured = max(fitted + float(weights @ surface.residuals), 0.0)
    return (measured + PRIOR_RUNS * typical) / (fitted + PRIOR_RUNS * typical) if typical else 1.0
