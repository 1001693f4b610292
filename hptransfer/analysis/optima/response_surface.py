"""Response surface over all runs: free optima by scale, one shared shape.

The response of a run (tables/response.py), the log of its loss or the like, is an intercept plus the excess of the
response shape (response_shape.py) at the run's octaves from its scale's optimum. The shape is shared by all scales, so
that a few runs suffice to place a scale's optimum. The error of any one form of the shape grows with the loss above the
optimum, and the residuals show how fast. The weight of a run therefore falls with its excess, by as much as the form is
wrong. A stray run has none (residuals.py). The result is the mean over two forms.

The nonlinear least squares use damped Gauss-Newton steps. The intercepts are eliminated exactly (variable projection)
and scales interact only through the shape, so the cost is linear in the number of runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from hptransfer.analysis.optima.residuals import (
    noise_and_discrepancy,
    robust_weights,
    sound_probability,
    t_shrink,
    variances,
)
from hptransfer.analysis.optima.response_shape import ResponseShape
from hptransfer.analysis.optima.run_selection import SEED_SPREAD, SelectedRuns, select_runs
from hptransfer.analysis.statistics.priors import ShapePrior
from hptransfer.analysis.tables.arrays import Array, Index, Runs

# Rounds that estimate the discrepancy, each weighting runs by the estimate of the round before; then rounds in which
# the discrepancy is multiplied by CAUTION, because the error of a form is common to all runs and does not average out.
ESTIMATING, DECIDING = 3, 2
CAUTION = 8.0
DISCREPANCY_BOUNDS = (0.05, 1.0)
# Noise of the starting points of the fit, in the response. Noise and curvature can each explain the same differences,
# so the fit begins from both sides and keeps the likelier end.
LOW_NOISE, HIGH_NOISE = 0.002, 0.03
# Share of sound runs below which a surface passes through few of them.
LEAST_SOUND = 2 / 3
# More runs than this tell noise from curvature from any start.
AMBIGUOUS_RUNS = 2000
LEAST_WEIGHT = 1e-9
FIRST_REWEIGHTS, REWEIGHTS = 4, 2
SURFACE_STEPS = 25
# Gain of a step, relative to the objective, below which the iteration has converged.
CONVERGED = 1e-7


class LawGuide(Protocol):
    """Law that guides scales with few runs during the fit."""

    def start(self, x: Array) -> tuple[Array, Array]:
        """Return the law's optima and the scatter about it, from rough optima.

        Args:
            x: log2 of rough optima, (scales, tuned).

        Returns:
            log2 of the law's optima, (scales, tuned), and the scatter in octaves, (tuned,).
        """

    def follow(self, information: Array, information_vector: Array) -> tuple[Array, Array]:
        """Return the same from the likelihood of the optima after a fit."""


@dataclass(frozen=True, eq=False)
class ResponseSurface:
    """A fitted response surface.

    The likelihood of all optima together is normal. Its precision is `information`, (scales * tuned) squared and
    ordered scale by scale; `information_vector` is precision times mean. A scale with few runs contributes little
    information.

    Attributes:
        x: log2 of each scale's optimum, (scales, tuned); scales with few runs are guided by the law.
        octaves: log2 of every scale's axes over their middle, (scales, axes).
        noise: standard deviation of a run's response at the optimum.
        discrepancy: error of the shape's form, as a share of the excess.
        freedom: degrees of freedom of the estimates of noise and discrepancy.
        deviance: minus twice the log of the posterior of noise, shape and optima, up to a constant.
        intercepts: response at each scale's optimum; NaN for a scale without a run near it.
        runs: positions of the runs that were fitted, with their `residuals` and `excess` in the response.
        sound: probability of each of these runs to be sound.
        shape_covariance: of the shape's parameters, by Laplace's method, (parameters, parameters).
    """

    shape: ResponseShape
    x: Array
    octaves: Array
    information: Array
    information_vector: Array
    noise: float
    discrepancy: float
    freedom: float
    deviance: float
    intercepts: Array
    runs: Index
    residuals: Array
    excess: Array
    sound: Array
    shape_covariance: Array


def fit_response_surface(runs: Runs, form: str, prior: ShapePrior, guide: LawGuide) -> ResponseSurface:
    """Fit one form of the response shape to all finite runs."""
    selected_runs, data = select_runs(runs)
    tuned, axes = runs.x.shape[1], data.octaves.shape[1]
    means, deviations = prior.rows(tuned, axes)
    problem = _LeastSquares(data, means, deviations)
    ends = []
    for start in _starts(data):
        theta = means.copy()
        lowest, highest = means[:tuned] - 2 * deviations[:tuned], means[:tuned] + 3 * deviations[:tuned]
        theta[:tuned] = np.clip(start.log_curvature, lowest, highest)
        state = _SurfaceParameters(ResponseShape(form, tuned, axes, theta), start.x)
        law = _LawPrior.of(*guide.start(start.x))
        ends.append(problem.fit_in_cycles(state, start.weights, start.noise, law, guide))
    return replace(min(ends, key=_searched_deviance), runs=selected_runs)


def _searched_deviance(surface: ResponseSurface) -> float:
    """Return the deviance, with a penalty for a surface through few runs.

    The penalty is twice the log of the number of subsets of the runs. Such a surface is the best of all subsets, which
    its likelihood does not say.
    """
    subsets = 2 * math.log(2) * len(surface.sound)
    return surface.deviance + subsets * bool(surface.sound.mean() < LEAST_SOUND)


@dataclass(frozen=True, eq=False)
class _Start:
    """Starting point of a fit.

    Attributes:
        x: rough optimum of each scale, (scales, tuned).
        log_curvature: (tuned,).
        weights: of the runs by which the first intercepts are placed, (runs,).
    """

    x: Array
    log_curvature: Array
    weights: Array
    noise: float


def _starts(data: SelectedRuns) -> list[_Start]:
    """Return the starting points of the fit; one for many runs."""
    best = np.full(len(data.octaves), np.inf)
    np.minimum.at(best, data.scale, data.y)
    excess = data.y - best[data.scale]
    x, near, whole, weights = _rough(data, excess)
    starts = [_Start(x, near, weights, LOW_NOISE)]
    if len(data.y) > AMBIGUOUS_RUNS:
        return starts
    starts += [_Start(x, whole, weights, LOW_NOISE), _Start(x, near, weights, HIGH_NOISE)]
    if not (excess > 0).any():
        return starts
    # The best run of a scale may be a stray one that is better than it should be.
    second = np.full(len(data.octaves), np.inf)
    np.minimum.at(second, data.scale[excess > 0], excess[excess > 0])
    x, _, whole, weights = _rough(data, np.where(excess > 0, excess - second[data.scale], np.inf))
    return [*starts, _Start(x, whole, weights, LOW_NOISE)]


def _rough(data: SelectedRuns, excess: Array) -> tuple[Array, Array, Array, Array]:
    """Return rough optima, two log curvatures and weights of the best runs.

    A rough optimum is the weighted mean of the scale's runs. The curvatures are those near it, and over all of the
    tried values.

    Args:
        excess: response above the scale's best, (runs,); infinite for a run that is left out.

    Returns:
        (scales, tuned), both (tuned,), and (runs,).
    """
    scales, tuned = len(data.octaves), data.x.shape[1]
    known = np.isfinite(excess)
    soft = max(float(np.quantile(excess[known], 0.25)), 1e-6)
    weights = 1 / (soft + excess) ** 2
    total = np.bincount(data.scale, weights, scales)
    x = data.summed(data.x * weights[:, None])
    x = np.where(total[:, None] > 0, x / np.maximum(total, 1e-300)[:, None], data.x.mean(axis=0))
    squares, excess = (data.x - x[data.scale])[known] ** 2, excess[known]
    relative = 1 / (soft + excess)
    near, _ = nnls(np.column_stack([squares, np.ones(len(squares))]) * relative[:, None], excess * relative)
    whole, _ = nnls(squares, excess)
    near, whole = (np.log(np.maximum(curvature[:tuned], 1e-6)) for curvature in (near, whole))
    return x, near, whole, weights


@dataclass(frozen=True, eq=False)
class _LawPrior:
    """Normal prior of the optima by the law.

    Attributes:
        optima: means, (scales, tuned).
        precision: (tuned,).
    """

    optima: Array
    precision: Array

    @classmethod
    def of(cls, optima: Array, scatter: Array) -> _LawPrior:
        return cls(optima, 1 / scatter**2)


@dataclass(frozen=True, eq=False)
class _SurfaceParameters:
    """The parameters of the least squares: the shape's and the scales' optima."""

    shape: ResponseShape
    x: Array

    def moved(self, by_x: Array, by_shape: Array) -> _SurfaceParameters:
        """Return the state after a step of bounded length."""
        theta = self.shape.theta + np.clip(by_shape, -1, 1)
        return _SurfaceParameters(replace(self.shape, theta=theta), self.x + np.clip(by_x, -2, 2))

    def from_optimum(self, data: SelectedRuns) -> tuple[Array, Array]:
        """Return each run's octaves from its scale's optimum, and its scale's octaves."""
        return data.x - self.x[data.scale], data.octaves[data.scale]


@dataclass(frozen=True, eq=False)
class _Linearization:
    """Excess by run; residuals and derivatives after projection of the intercepts."""

    excess: Array
    residuals: Array
    by_x: Array
    by_shape: Array


@dataclass(frozen=True, eq=False)
class _NormalEquations:
    """Normal equations of the optima and the shape.

    Attributes:
        xx: blocks by scale, (scales, tuned, tuned).
        xt: their border with the shape, (scales, tuned, parameters).
        tt: the block of the shape, (parameters, parameters).
    """

    xx: Array
    xt: Array
    tt: Array

    @classmethod
    def of(cls, data: SelectedRuns, weights: Array, linear: _Linearization) -> _NormalEquations:
        by_x, by_shape = linear.by_x, linear.by_shape
        scales, tuned, shape = len(data.octaves), by_x.shape[1], by_shape.shape[1]

        def summed(first: Array, second: Array) -> Array:
            sums: Array = np.bincount(data.scale, weights * first * second, scales).astype(float)
            return sums

        xx = [[summed(by_x[:, k], by_x[:, j]) for j in range(tuned)] for k in range(tuned)]
        xt = [[summed(by_x[:, k], by_shape[:, c]) for c in range(shape)] for k in range(tuned)]
        tt = by_shape.T @ (by_shape * weights[:, None])
        return cls(np.moveaxis(np.array(xx), 2, 0), np.moveaxis(np.array(xt), 2, 0), tt)

    def with_prior(self, on_x: Array, on_shape: Array) -> _NormalEquations:
        """Return the equations with the priors' precisions added."""
        return _NormalEquations(self.xx + np.diag(on_x), self.xt, self.tt + np.diag(on_shape))

    def damped(self, factor: float) -> _NormalEquations:
        """Return the equations with a larger diagonal (Levenberg-Marquardt)."""
        eye = np.eye(self.xx.shape[1])
        return _NormalEquations(self.xx * (1 + factor * eye), self.xt, self.tt * (1 + factor * np.eye(len(self.tt))))

    def solve(self, on_x: Array, on_shape: Array) -> tuple[Array, Array]:
        """Return the steps of the optima and of the shape (Schur complement).

        Args:
            on_x, on_shape: gradients by the optima, (scales, tuned), and by the shape, (parameters,).
        """
        inverse = np.linalg.inv(self.xx)
        across = inverse @ self.xt
        schur = self.tt - np.einsum("skc,skd->cd", self.xt, across)
        by_shape = np.linalg.solve(schur, on_shape - np.einsum("skc,sk->c", across, on_x))
        by_x: Array = np.einsum("skj,sj->sk", inverse, on_x) - across @ by_shape
        return by_x, by_shape

    def shape_covariance(self) -> Array:
        """Return the covariance of the shape, the optima integrated out."""
        across = np.linalg.inv(self.xx) @ self.xt
        covariance: Array = np.linalg.inv(self.tt - np.einsum("skc,skd->cd", self.xt, across))
        return covariance

    def border(self) -> Array:
        """Return xt as one matrix, (scales * tuned, shape)."""
        return self.xt.reshape(-1, self.xt.shape[2])

    def whole_xx(self) -> Array:
        """Return xx as one block-diagonal matrix."""
        scales, tuned, _ = self.xx.shape
        blocks = np.zeros((scales, tuned, scales, tuned))
        blocks[np.arange(scales), :, np.arange(scales)] = self.xx
        return blocks.reshape(scales * tuned, scales * tuned)


class _LeastSquares:
    """Weighted least squares of one form: runs and prior.

    Args:
        means, deviations: of the shape's parameters before any run, (parameters,).
    """

    def __init__(self, data: SelectedRuns, means: Array, deviations: Array) -> None:
        self.data = data
        self.means = means
        self.precision: Array = 1 / deviations**2

    def fit_in_cycles(
        self, state: _SurfaceParameters, weights: Array, noise: float, law: _LawPrior, guide: LawGuide
    ) -> ResponseSurface:
        """Fit from one starting point.

        Each cycle takes noise, discrepancy and law from the one before.
        """
        state, weights = self.fit(state, weights, noise, DISCREPANCY_BOUNDS[1], law, FIRST_REWEIGHTS)
        surface = self.likelihood(state, weights, law)
        discrepancy = DISCREPANCY_BOUNDS[1]
        for cycle in range(1, ESTIMATING + DECIDING):
            if cycle <= ESTIMATING:
                factor = CAUTION if cycle == ESTIMATING else 1.0
                discrepancy = float(np.clip(factor * surface.discrepancy, *DISCREPANCY_BOUNDS))
            law = _LawPrior.of(*guide.follow(surface.information, surface.information_vector))
            state, weights = self.fit(state, weights, surface.noise, discrepancy, law, REWEIGHTS)
            surface = self.likelihood(state, weights, law)
        return surface

    def fit(
        self,
        state: _SurfaceParameters,
        weights: Array,
        noise: float,
        discrepancy: float,
        law: _LawPrior,
        rounds: int,
    ) -> tuple[_SurfaceParameters, Array]:
        """Return state and weights after some rounds of reweighted least squares.

        Args:
            weights: by which the first intercepts are placed, (runs,).
        """
        for _ in range(rounds):
            weights = self.robust_weights(state, weights, noise, discrepancy)
            state = self.solve(state, weights, law)
        return state, weights

    def robust_weights(self, state: _SurfaceParameters, before: Array, noise: float, discrepancy: float) -> Array:
        """Return weights by noise and discrepancy, about 0 for stray runs.

        Args:
            before: weights by which the intercepts are placed.
        """
        excess = state.shape.excess(*state.from_optimum(self.data))
        residuals = self.data.centred(before, (self.data.y - excess)[:, None])[:, 0]
        variance = noise**2 + (discrepancy * excess) ** 2
        weights: Array = np.maximum(robust_weights(residuals, variance), LEAST_WEIGHT / variance)
        return weights

    def linearize(self, state: _SurfaceParameters, weights: Array) -> _Linearization:
        """Linearize the excess, with the intercepts eliminated (variable projection)."""
        excess, by_x, by_shape = state.shape.linearized(*state.from_optimum(self.data))
        all_columns = np.concatenate([(self.data.y - excess)[:, None], by_x, by_shape], axis=1)
        projected = self.data.centred(weights, all_columns)
        tuned = by_x.shape[1]
        return _Linearization(excess, projected[:, 0], projected[:, 1 : 1 + tuned], projected[:, 1 + tuned :])

    def objective(self, state: _SurfaceParameters, weights: Array, law: _LawPrior, residuals: Array) -> float:
        """Return the weighted sum of squares plus the squares of both priors."""
        return float((weights * residuals**2).sum()) + self.penalty(state, law)

    def penalty(self, state: _SurfaceParameters, law: _LawPrior) -> float:
        """Return the squares of both priors."""
        by_law = ((state.x - law.optima) ** 2 @ law.precision).sum()
        return float(by_law + ((state.shape.theta - self.means) ** 2 @ self.precision))

    def normal_equations(
        self, state: _SurfaceParameters, weights: Array, law: _LawPrior, linear: _Linearization
    ) -> tuple[_NormalEquations, Array, Array]:
        """Return the equations of a Gauss-Newton step and its gradients."""
        normal = _NormalEquations.of(self.data, weights, linear).with_prior(law.precision, self.precision)
        gradient = self.data.summed(linear.by_x * (weights * linear.residuals)[:, None])
        gradient = gradient - (state.x - law.optima) * law.precision
        return normal, gradient, self._shape_gradient(state, weights, linear)

    def _shape_gradient(self, state: _SurfaceParameters, weights: Array, linear: _Linearization) -> Array:
        gradient: Array = (
            linear.by_shape.T @ (weights * linear.residuals) - (state.shape.theta - self.means) * self.precision
        )
        return gradient

    def solve(self, state: _SurfaceParameters, weights: Array, law: _LawPrior) -> _SurfaceParameters:
        """Minimize at fixed weights, by damped Gauss-Newton steps.

        The damping of a step increases until the objective falls.
        """
        linear = self.linearize(state, weights)
        value, damping = self.objective(state, weights, law, linear.residuals), 1e-3
        for _ in range(SURFACE_STEPS):
            normal, by_x, by_shape = self.normal_equations(state, weights, law, linear)
            while True:
                proposed = state.moved(*normal.damped(damping).solve(by_x, by_shape))
                proposed_linear = self.linearize(proposed, weights)
                reached = self.objective(proposed, weights, law, proposed_linear.residuals)
                if reached <= value:
                    break
                damping *= 8
                if damping > 1e6:
                    return state
            gained, value = value - reached, reached
            state, linear, damping = proposed, proposed_linear, max(damping / 5, 1e-8)
            if gained < CONVERGED * (1 + abs(value)):
                break
        return state

    def likelihood(self, state: _SurfaceParameters, weights: Array, law: _LawPrior) -> ResponseSurface:
        """Return the likelihood of the optima by a sandwich covariance.

        The shape is integrated out and the law's prior is left out. The weights express how far a run is trusted, not
        its noise; so the precision is a sandwich with variances that are estimated from the residuals.
        """
        data, linear = self.data, self.linearize(state, weights)
        plain = _NormalEquations.of(data, weights, linear)
        with_prior = plain.with_prior(law.precision, self.precision)
        leverage = _leverage(data, weights, linear, with_prior)
        residuals, excess = linear.residuals, linear.excess
        found = noise_and_discrepancy(residuals, excess, leverage)
        variance = found.noise**2 + (found.discrepancy * excess) ** 2
        sound = sound_probability(residuals, variance)
        variance = variances(data, residuals, sound, leverage, variance)

        prior = np.diag(self.precision)
        through = plain.border() @ np.linalg.inv(plain.tt + prior)
        hessian = plain.whole_xx() - through @ plain.border().T
        meat = _NormalEquations.of(data, weights**2 * variance, linear)
        crossed = through @ meat.border().T
        scores = meat.whole_xx() - crossed - crossed.T + through @ (meat.tt + prior) @ through.T
        scores += np.eye(len(scores)) * (1e-6 * np.trace(scores) / len(scores) + 1e-12)
        freedom = max(1.0, float(sound.sum() - leverage.sum()))
        sandwich = np.linalg.solve(scores, hessian).T * t_shrink(freedom)
        score = data.summed(linear.by_x * (weights * residuals)[:, None]).reshape(-1)
        score = score - through @ self._shape_gradient(state, weights, linear)
        information = sandwich @ hessian
        return ResponseSurface(
            shape=state.shape,
            x=state.x,
            octaves=data.octaves,
            information=(information + information.T) / 2,
            information_vector=sandwich @ (score + hessian @ state.x.reshape(-1)),
            noise=found.noise,
            discrepancy=found.discrepancy,
            freedom=freedom,
            deviance=found.deviance + self.penalty(state, law),
            intercepts=_scale_intercepts(data, weights, data.y - excess),
            runs=np.array([], dtype=np.intp),
            residuals=residuals,
            excess=excess,
            sound=sound,
            shape_covariance=with_prior.shape_covariance(),
        )


def _leverage(data: SelectedRuns, weights: Array, linear: _Linearization, normal: _NormalEquations) -> Array:
    """Return the share of each run in its own fitted value."""
    by_x, by_shape = linear.by_x, linear.by_shape
    inverse = np.linalg.inv(normal.xx)
    across = inverse @ normal.xt
    shape = normal.shape_covariance()
    of_scale = inverse + across @ shape @ np.swapaxes(across, 1, 2)
    border = (across @ shape)[data.scale]
    value = np.einsum("ik,ikj,ij->i", by_x, of_scale[data.scale], by_x) - 2 * np.einsum(
        "ik,ikc,ic->i", by_x, border, by_shape
    )
    value += np.einsum("ic,cd,id->i", by_shape, shape, by_shape)
    leverage: Array = weights * value + weights / np.bincount(data.intercept, weights)[data.intercept]
    return np.clip(leverage, 0.0, 0.95)


def _scale_intercepts(data: SelectedRuns, weights: Array, level: Array) -> Array:
    """Return the mean response over sound seeds at each scale's optimum.

    Seeds whose level is above the lowest of their scale by more than SEED_SPREAD count as broken.
    """
    total = np.bincount(data.intercept, weights)
    by_intercept = np.bincount(data.intercept, weights * level) / total
    scale = np.zeros(len(total), dtype=np.intp)
    scale[data.intercept] = data.scale
    scales = len(data.octaves)
    lowest = np.full(scales, np.inf)
    np.minimum.at(lowest, scale, by_intercept)
    sound = by_intercept <= lowest[scale] + SEED_SPREAD
    count = np.bincount(scale[sound], minlength=scales)
    with np.errstate(invalid="ignore"):
        mean: Array = np.bincount(scale[sound], by_intercept[sound], scales) / count
    return mean
