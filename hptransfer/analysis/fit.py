"""The fit: optimum of every scale, the law through them, and draws of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.law import Design, Law, fit_law, scatter_draws, weighted
from hptransfer.analysis.optimum import (
    Array,
    Cell,
    Curve,
    Optimum,
    cells,
    optimum,
    paired_error,
    repeat_noise,
    seed_residuals,
    vertex_error,
)
from hptransfer.analysis.records import Columns
from hptransfer.core.errors import FitError

DRAWS = 1000
INTERVAL = (5, 95)
NORMAL_95 = 1.645
# An exponent whose interval lies within so many octaves per octave of zero counts as transfer.
TOLERANCE = 0.25

TRANSFERS = "transfers"
DRIFTS = "does not transfer"
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Exponent:
    """How the optimum moves with one axis, in octaves per octave, with its 90% interval."""

    value: float
    low: float
    high: float
    se: float

    @property
    def verdict(self) -> str:
        if abs(self.low) <= TOLERANCE and abs(self.high) <= TOLERANCE:
            return TRANSFERS
        if self.low > TOLERANCE or self.high < -TOLERANCE:
            return DRIFTS
        return UNDECIDED


@dataclass(frozen=True)
class HeldOut:
    """The largest scale, predicted from the others.

    Attributes:
        error_octaves: prediction minus the scale's own optimum; None if it could not be predicted.
        covered: whether the 90% interval holds the scale's own optimum.
        reason: why there is no check.
    """

    scale: Mapping[str, float]
    error_octaves: float | None = None
    low: float | None = None
    high: float | None = None
    covered: bool | None = None
    regret_nats: float | None = None
    regret_percent: float | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """Everything that was fitted.

    Attributes:
        optima: of every scale, cheapest first.
        noise: standard deviation of a loss about its parabola, in nats, the median over scales.
        draws: coefficients of the law, a row a draw; `scatter`, the scatter of each draw.
        loss_draws: coefficients of log(loss at the optimum), a row a draw, and its residual spread.
    """

    columns: Columns
    optima: Sequence[Optimum]
    noise: float
    law: Law
    draws: Array
    scatter: Array
    loss_law: Array
    loss_draws: Array
    loss_scatter: Array
    warnings: Sequence[str]

    @property
    def bracketed(self) -> list[Optimum]:
        return [found for found in self.optima if found.bracketed]

    @property
    def smallest(self) -> Optimum:
        """The cheapest scale with a bracketed optimum."""
        return self.bracketed[0]

    @cached_property
    def exponents(self) -> dict[str, Exponent]:
        found = {}
        for index, axis in enumerate(self.law.design.axes, start=1):
            drawn = self.draws[:, index]
            low, high = np.percentile(drawn, INTERVAL)
            se = (high - low) / (2 * NORMAL_95)  # draws of few scales have no standard deviation
            found[axis] = Exponent(float(self.law.coefficients[index]), float(low), float(high), float(se))
        return found

    @cached_property
    def curvature(self) -> float:
        """Nats per octave squared, the median over scales."""
        return float(np.median([found.curvature for found in self.bracketed]))

    def predict(self, scale: Mapping[str, float]) -> tuple[float, float, float]:
        """log2 of the optimum at a scale with its 90% interval.

        The interval holds the law's uncertainty and the scatter of single scales about it.
        """
        row = self.law.design.matrix([scale])[0]
        normal = np.random.default_rng(1).standard_normal(len(self.draws))
        low, high = np.percentile(self.draws @ row + self.scatter * normal, INTERVAL)
        return float(row @ self.law.coefficients), float(low), float(high)

    def predict_loss(self, scale: Mapping[str, float]) -> tuple[float, float, float]:
        """Loss at the optimum of a scale with its 90% interval, by a power law in every axis, in nats."""
        row = self.law.design.matrix([scale])[0]
        normal = np.random.default_rng(2).standard_normal(len(self.loss_draws))
        low, high = np.percentile(self.loss_draws @ row + self.loss_scatter * normal, INTERVAL)
        return float(np.exp(row @ self.loss_law)), float(np.exp(low)), float(np.exp(high))

    def unmoved_cost(self, found: Optimum) -> float | None:
        """Nats that a scale loses with the smallest scale's optimum; None if it was not tried so far out."""
        cell = found.cell
        finite = np.isfinite(cell.y)
        curve = Curve(list(2.0 ** cell.x[finite]), list(cell.y[finite]))
        if not curve.x[0] <= self.smallest.x <= curve.x[-1]:
            return None
        return max(0.0, curve.at(self.smallest.x) - curve.minimum()[1])

    def shift_cost(self, octaves: float) -> float:
        """Nats that a shift away from the optimum costs, by the median curvature."""
        return self.curvature * octaves**2


def fit_table(table: pd.DataFrame, columns: Columns, *, draws: int = DRAWS, seed: int = 0) -> Fit:
    """Fits a checked table (see records.check_table).

    Raises:
        FitError: too few scales have a bracketed optimum.
    """
    return _fit(cells(table, columns), columns, draws=draws, seed=seed)


def _fit(found: Sequence[Cell], columns: Columns, *, draws: int, seed: int) -> Fit:
    rough = [optimum(cell) for cell in found]
    bracketed = [one for one in rough if one.bracketed]
    design = _design(rough, bracketed)
    noises, freedom = _noises(bracketed)
    optima = [_with_error(one, noises.get(id(one.cell), np.nan)) for one in rough]
    bracketed = [one for one in optima if one.bracketed]
    scales = [one.cell.axes for one in bracketed]
    x, se = (np.array([getattr(one, name) for one in bracketed]) for name in ("x", "se"))
    law = fit_law(design, scales, x, se)
    random = np.random.default_rng(seed)
    noise = np.array([noises[id(one.cell)] for one in bracketed])
    drawn, scatter = _draw(bracketed, law, se, noise, freedom, draws, random)
    losses = np.log([one.loss for one in bracketed])
    loss_law, loss_draws, loss_scatter = _loss_law(design.matrix(scales), losses, draws, random)
    warnings = _warnings(optima, law, freedom)
    median = float(np.median(noise))
    return Fit(columns, optima, median, law, drawn, scatter, loss_law, loss_draws, loss_scatter, warnings)


def _design(optima: Sequence[Optimum], bracketed: Sequence[Optimum]) -> Design:
    """Raises FitError if too few scales are bracketed for the axes that were swept."""
    if not optima:
        raise FitError("there is no scale with a finished trial to fit a law to")
    wanted = Design.of([one.cell.axes for one in optima]).num_parameters
    if len(bracketed) < wanted:
        without = [f"{_name(one)} ({one.status})" for one in optima if not one.bracketed]
        have = "1 scale has" if len(bracketed) == 1 else f"{len(bracketed)} scales have"
        raise FitError(
            f"{have} a bracketed optimum, a law over the swept axes needs {wanted}; "
            f"{wanted - len(bracketed)} more needed. Without a bracket: {', '.join(without) or 'none'}"
        )
    return Design.of([one.cell.axes for one in bracketed])


def _name(one: Optimum) -> str:
    return ",".join(f"{axis}={value:g}" for axis, value in one.cell.axes.items())


def _noises(bracketed: Sequence[Optimum]) -> tuple[dict[int, float], int]:
    """Noise of a mean loss about its parabola by scale (its cell's id), and degrees of freedom.

    What the parabolas of all scales miss, or what a scale's own repeats say if that is more.
    """
    freedom = sum(len(one.kept) - 3 for one in bracketed)
    squares = sum(float((one.residuals**2).sum()) for one in bracketed)
    fitted = np.sqrt(squares / freedom) if freedom else 0.0
    noises = {}
    for one in bracketed:
        repeats = one.cell.runs / len(one.cell.x)
        noises[id(one.cell)] = float(max(fitted, repeat_noise(one.cell) / np.sqrt(repeats)))
    return noises, freedom or int(sum(one.cell.freedom.sum() for one in bracketed))


def _with_error(one: Optimum, noise: float) -> Optimum:
    if not one.bracketed:
        return one
    residuals = seed_residuals(one)
    if residuals is not None:
        return replace(one, se=paired_error(one, residuals))
    return replace(one, se=vertex_error(one.cell.x[one.kept], one.x, one.curvature, noise))


def _draw(
    bracketed: Sequence[Optimum],
    law: Law,
    se: Array,
    noise: Array,
    freedom: int,
    draws: int,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw i of the losses gives draw i of the optima; with draw i of the scatter, of the law."""
    factor = np.sqrt(freedom / random.chisquare(freedom, draws)) if freedom else np.ones(draws)
    scatter = scatter_draws(law, se, draws, random)
    optima = np.column_stack(
        [_vertices(one, _noise_draws(one, own * factor, random)) for one, own in zip(bracketed, noise, strict=True)]
    )
    optima += scatter[:, None] * random.standard_normal(optima.shape)
    matrix = law.design.matrix([one.cell.axes for one in bracketed])
    return weighted(matrix, optima, se**2 + max(law.scatter, 1e-3) ** 2), scatter


def _noise_draws(one: Optimum, noises: Array, random: np.random.Generator) -> Array:
    """Noise of the kept points' mean losses, a row a draw: by the seeds if they tell, else independent."""
    residuals = seed_residuals(one)
    if residuals is None:
        return noises[:, None] * random.standard_normal((len(noises), len(one.kept)))
    freedom = len(residuals) - 1
    spread = np.sqrt(freedom / random.chisquare(freedom, len(noises)))
    drawn: Array = spread[:, None] * (random.standard_normal((len(noises), len(residuals))) @ residuals)
    return drawn


def _vertices(one: Optimum, noise: Array) -> Array:
    """Vertices of parabolas through the fitted losses with noise, (draws, points), within the points' range."""
    t = one.cell.x[one.kept] - one.x
    losses = one.cell.y[one.kept] - one.residuals + noise
    a, b, _ = np.linalg.lstsq(np.vander(t, 3), losses.T, rcond=None)[0]
    with np.errstate(divide="ignore"):
        vertices = np.where(a > 0, -b / (2 * np.where(a == 0, 1.0, a)), np.where(b < 0, t[-1], t[0]))
    clipped: Array = one.x + np.clip(vertices, t[0], t[-1])
    return clipped


def _loss_law(matrix: Array, losses: Array, draws: int, random: np.random.Generator) -> tuple[Array, Array, Array]:
    """log(loss at the optimum), linear in the log axes: coefficients, draws, and residual spread."""
    solved: Array = np.linalg.lstsq(matrix, losses, rcond=None)[0]
    freedom = len(losses) - matrix.shape[1]
    spread: Array
    squares = float(((losses - matrix @ solved) ** 2).sum())
    spread = np.sqrt(squares / random.chisquare(freedom, draws)) if freedom else np.zeros(draws)
    noisy = (matrix @ solved)[None, :] + spread[:, None] * random.standard_normal((draws, len(losses)))
    return solved, weighted(matrix, noisy, np.ones(len(losses))), spread


def _warnings(optima: Sequence[Optimum], law: Law, freedom: int) -> list[str]:
    notes = [
        f"{_name(one)} has no bracketed optimum ({one.status}) and is left out" for one in optima if not one.bracketed
    ]
    if not law.freedom:
        notes.append("as many scales as parameters: the scatter about the law is assumed, not measured")
    if not freedom:
        notes.append("no spare points in any scale: the noise of the losses is not measured")
    for axis in law.design.fixed:
        notes.append(f"only one value of {axis} was swept: its exponent is not measured")
    return notes


def hold_out(fit: Fit, *, seed: int = 0) -> HeldOut:
    """Predicts the largest bracketed scale from all others."""
    largest = fit.bracketed[-1]
    rest = [one.cell for one in fit.optima if one is not largest]
    try:
        other = _fit(rest, fit.columns, draws=len(fit.draws), seed=seed)
        x, low, high = other.predict(largest.cell.axes)
    except FitError as error:
        return HeldOut(largest.cell.axes, reason=str(error))
    cell, finite = largest.cell, np.isfinite(largest.cell.y)
    curve = Curve(list(2.0 ** cell.x[finite]), list(cell.y[finite]))
    best = curve.minimum()[1]
    inside = curve.x[0] <= x <= curve.x[-1]
    regret = max(0.0, curve.at(x) - best) if inside else None
    return HeldOut(
        scale=cell.axes,
        error_octaves=x - largest.x,
        low=low - largest.x,
        high=high - largest.x,
        covered=bool(low - largest.se <= largest.x <= high + largest.se),
        regret_nats=regret,
        regret_percent=None if regret is None else 100 * regret / best,
    )


def describe(values: Mapping[str, Any]) -> str:
    """A scale as text: "width=256, depth=4"."""
    return ", ".join(f"{axis}={value:g}" if value < 1e6 else f"{axis}={value:.0f}" for axis, value in values.items())
