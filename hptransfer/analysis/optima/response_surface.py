"""One surface over all runs: a bowl whose place is free by scale and whose shape is shared by all scales.

The log of a run's loss is a intercept plus the bowl (bowl.py) at its octaves from the scale's optimum. The shape
is shared, so that a handful of runs places a scale's optimum. What a bowl of any one form misses grows with
the loss above the optimum. How fast, the runs show; so a run counts by how near to the optimum it is, far runs
hardly at all where the form is wrong and fully where it is right; and the answer is the mean over two forms of
the bowl.

The least squares are by damped Gauss-Newton steps. Heights are eliminated exactly and scales meet
only in the shape, so the cost is linear in runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from hptransfer.analysis.optima.residuals import noise_and_discrepancy, t_shrink, variances
from hptransfer.analysis.optima.response_shape import ResponseShape
from hptransfer.analysis.optima.run_selection import SelectedRuns, select_runs
from hptransfer.analysis.statistics.priors import ShapePrior
from hptransfer.analysis.tables.arrays import Array, Index, Runs

# Rounds that ask by what share of the excess the form is wrong, a run counting by what the round before found; then
# rounds in which that share counts so many times, for a form is wrong alike in all runs: it does not average out.
ASKING, DECIDING = 3, 2
CAUTION = 8.0
MISTRUST = (0.05, 1.0)
FIRST_NOISE = 0.002
FIRST_REWEIGHTS, REWEIGHTS = 4, 2
STEPS = 25
ENOUGH = 1e-7


class LawGuide(Protocol):
    """A law that keeps scales with few runs near the others while the surface is fitted."""

    def start(self, x: Array) -> tuple[Array, Array]:
        """Rough optima, (scales, tuned), to where the law has them and the scatter about it, (tuned,)."""

    def follow(self, information: Array, information_vector: Array) -> tuple[Array, Array]:
        """The same from what a fit says of the optima."""


@dataclass(frozen=True, eq=False)
class ResponseSurface:
    """A fitted surface.

    What the runs say of all optima together is normal: its precision `information`, (scales * tuned)
    squared, scale by scale, and `information_vector`, precision times mean. A scale with few runs has little of it.

    Attributes:
        x: log2 of each scale's optimum, (scales, tuned), few runs being guided by the law.
        octaves: log2 of every scale's axes over their middle, (scales, axes).
        noise: standard deviation of a run's log loss at the optimum.
        discrepancy: share of the excess by which the bowl's form is wrong.
        freedom: degrees of freedom that noise and discrepancy rest on.
        intercepts: log loss at each scale's optimum; NaN for a scale without a run near it.
        runs: positions of the runs that were fitted, with their `residuals` and `excess` in log loss.
    """

    shape: ResponseShape
    x: Array
    octaves: Array
    information: Array
    information_vector: Array
    noise: float
    discrepancy: float
    freedom: float
    intercepts: Array
    runs: Index
    residuals: Array
    excess: Array


def fit_response_surface(runs: Runs, form: str, prior: ShapePrior, guide: LawGuide) -> ResponseSurface:
    """Fits one form of the bowl to all finite runs."""
    kept, data = select_runs(runs)
    tuned, axes = runs.x.shape[1], data.octaves.shape[1]
    means, deviations = prior.rows(tuned, axes)
    x, log_a = _start(data)
    theta = means.copy()
    theta[:tuned] = np.clip(log_a, means[:tuned] - 2 * deviations[:tuned], means[:tuned] + 3 * deviations[:tuned])
    state = _State(ResponseShape(form, tuned, axes, theta), x)
    noise, mistrust, found = FIRST_NOISE, MISTRUST[1], None
    towards, scatter = guide.start(x)
    for cycle in range(ASKING + DECIDING):
        if found is not None:
            noise = found.noise
            if cycle <= ASKING:
                mistrust = float(np.clip((CAUTION if cycle == ASKING else 1.0) * found.discrepancy, *MISTRUST))
            towards, scatter = guide.follow(found.information, found.information_vector)
        for _ in range(REWEIGHTS if cycle else FIRST_REWEIGHTS):
            weights = _weights(data, state, noise, mistrust)
            state = _solve(data, weights, state, means, deviations, towards, 1 / scatter**2)
        found = _told(data, weights, state, means, deviations, 1 / scatter**2)
    assert found is not None
    return replace(found, runs=kept)


def _start(data: SelectedRuns) -> tuple[Array, Array]:
    """Rough optima, the runs' places weighted towards the best of each scale, and rough log curvatures."""
    scales, tuned = len(data.octaves), data.x.shape[1]
    best = np.full(scales, np.inf)
    np.minimum.at(best, data.scale, data.y)
    excess = data.y - best[data.scale]
    soft = max(float(np.quantile(excess, 0.25)), 1e-6)
    weights = 1 / (soft + excess) ** 2
    total = np.bincount(data.scale, weights, scales)
    x = data.summed(data.x * weights[:, None])
    x = np.where(total[:, None] > 0, x / np.maximum(total, 1e-300)[:, None], data.x.mean(axis=0))
    u = (data.x - x[data.scale]) ** 2 / (soft + excess)[:, None]
    curvature, _ = nnls(np.column_stack([u, 1 / (soft + excess)]), excess / (soft + excess))
    log_curvature: Array = np.log(np.maximum(curvature[:tuned], 1e-6))
    return x, log_curvature


@dataclass(frozen=True, eq=False)
class _State:
    shape: ResponseShape
    x: Array

    def moved(self, by_shape: Array, by_x: Array) -> _State:
        theta = self.shape.theta + np.clip(by_shape, -1, 1)
        return _State(replace(self.shape, theta=theta), self.x + np.clip(by_x, -2, 2))

    def from_optimum(self, data: SelectedRuns) -> tuple[Array, Array]:
        """Octaves of each run from its scale's optimum, and its scale's octaves."""
        return data.x - self.x[data.scale], data.octaves[data.scale]


def _weights(data: SelectedRuns, state: _State, noise: float, mistrust: float) -> Array:
    """By the noise and by the share of the excess that the form may miss; strays count less (a soft L1 loss)."""
    excess = state.shape.excess(*state.from_optimum(data))
    weights: Array = 1 / (noise**2 + (mistrust * excess) ** 2)
    left = data.centred(weights, (data.y - excess)[:, None])[:, 0]
    found: Array = weights / np.sqrt(1 + left**2 * weights)
    return found


@dataclass(frozen=True, eq=False)
class _Normal:
    """Normal equations: blocks by scale, their border with the shape, and the shape's own."""

    xx: Array
    xt: Array
    tt: Array

    @classmethod
    def of(cls, data: SelectedRuns, weights: Array, by_x: Array, by_shape: Array) -> _Normal:
        scales, tuned, shape = len(data.octaves), by_x.shape[1], by_shape.shape[1]

        def summed(left: Array, right: Array) -> Array:
            found: Array = np.bincount(data.scale, weights * left * right, scales).astype(float)
            return found

        xx = [[summed(by_x[:, k], by_x[:, j]) for j in range(tuned)] for k in range(tuned)]
        xt = [[summed(by_x[:, k], by_shape[:, c]) for c in range(shape)] for k in range(tuned)]
        tt = by_shape.T @ (by_shape * weights[:, None])
        return cls(np.moveaxis(np.array(xx), 2, 0), np.moveaxis(np.array(xt), 2, 0), tt)

    def with_prior(self, on_x: Array, on_shape: Array) -> _Normal:
        return _Normal(self.xx + np.diag(on_x), self.xt, self.tt + np.diag(on_shape))

    def damped(self, factor: float) -> _Normal:
        eye = np.eye(self.xx.shape[1])
        return _Normal(self.xx * (1 + factor * eye), self.xt, self.tt * (1 + factor * np.eye(len(self.tt))))

    def solve(self, x: Array, shape: Array) -> tuple[Array, Array]:
        inverse = np.linalg.inv(self.xx)
        across = inverse @ self.xt
        schur = self.tt - np.einsum("skc,skd->cd", self.xt, across)
        by_shape = np.linalg.solve(schur, shape - np.einsum("skc,sk->c", across, x))
        by_x: Array = np.einsum("skj,sj->sk", inverse, x) - across @ by_shape
        return by_x, by_shape

    def border(self) -> Array:
        """xt as one matrix, (scales * tuned, shape)."""
        return self.xt.reshape(-1, self.xt.shape[2])

    def whole_xx(self) -> Array:
        """xx as one block-diagonal matrix."""
        scales, tuned, _ = self.xx.shape
        found = np.zeros((scales, tuned, scales, tuned))
        found[np.arange(scales), :, np.arange(scales)] = self.xx
        return found.reshape(scales * tuned, scales * tuned)


def _linearized(data: SelectedRuns, weights: Array, state: _State) -> tuple[Array, Array, Array, Array]:
    """Excess, then residuals and derivatives with the intercepts eliminated."""
    excess, by_x, by_shape = state.shape.linearized(*state.from_optimum(data))
    all_columns = np.concatenate([(data.y - excess)[:, None], by_x, by_shape], axis=1)
    centred = data.centred(weights, all_columns)
    tuned = by_x.shape[1]
    return excess, centred[:, 0], centred[:, 1 : 1 + tuned], centred[:, 1 + tuned :]


def _solve(
    data: SelectedRuns, weights: Array, state: _State, means: Array, deviations: Array, towards: Array, on_x: Array
) -> _State:
    """Least squares at fixed weights, by Gauss-Newton steps that are damped until the objective falls."""
    on_shape = 1 / deviations**2

    def objective(at: _State, left: Array) -> float:
        far = ((at.x - towards) ** 2 @ on_x).sum() + ((at.shape.theta - means) ** 2 @ on_shape)
        return float((weights * left**2).sum() + far)

    _, left, by_x, by_shape = _linearized(data, weights, state)
    value, damping = objective(state, left), 1e-3
    for _ in range(STEPS):
        normal = _Normal.of(data, weights, by_x, by_shape).with_prior(on_x, on_shape)
        pull_x = data.summed(by_x * (weights * left)[:, None]) - (state.x - towards) * on_x
        pull_shape = by_shape.T @ (weights * left) - (state.shape.theta - means) * on_shape
        while True:
            step_x, step_shape = normal.damped(damping).solve(pull_x, pull_shape)
            tried = state.moved(step_shape, step_x)
            linearized = _linearized(data, weights, tried)
            reached = objective(tried, linearized[1])
            if reached <= value:
                break
            damping *= 8
            if damping > 1e6:
                return state
        gained, value = value - reached, reached
        state, damping = tried, max(damping / 5, 1e-8)
        _, left, by_x, by_shape = linearized
        if gained < ENOUGH * (1 + abs(value)):
            break
    return state


def _told(
    data: SelectedRuns, weights: Array, state: _State, means: Array, deviations: Array, on_x: Array
) -> ResponseSurface:
    """What the runs say of the optima, the shape being integrated out and the law's guidance left out.

    The weights say how far a run is trusted, not how noisy it is; so the precision is a sandwich, with
    variances that the residuals show.
    """
    on_shape = 1 / deviations**2
    excess, left, by_x, by_shape = _linearized(data, weights, state)
    plain = _Normal.of(data, weights, by_x, by_shape)
    leverage = _leverage(data, weights, by_x, by_shape, plain.with_prior(on_x, on_shape))
    noise, discrepancy = noise_and_discrepancy(left, excess, leverage)
    variance = variances(data, left, excess, leverage, noise**2 + (discrepancy * excess) ** 2)

    prior = np.diag(on_shape)
    through = plain.border() @ np.linalg.inv(plain.tt + prior)
    curved = plain.whole_xx() - through @ plain.border().T
    spread = _Normal.of(data, weights**2 * variance, by_x, by_shape)
    crossed = through @ spread.border().T
    scores = spread.whole_xx() - crossed - crossed.T + through @ (spread.tt + prior) @ through.T
    scores += np.eye(len(scores)) * (1e-6 * np.trace(scores) / len(scores) + 1e-12)
    freedom = max(1.0, float(len(left) - leverage.sum()))
    sandwich = np.linalg.solve(scores, curved).T * t_shrink(freedom)
    pull_shape = by_shape.T @ (weights * left) - (state.shape.theta - means) * on_shape
    score = data.summed(by_x * (weights * left)[:, None]).reshape(-1) - through @ pull_shape
    information = sandwich @ curved
    return ResponseSurface(
        shape=state.shape,
        x=state.x,
        octaves=data.octaves,
        information=(information + information.T) / 2,
        information_vector=sandwich @ (score + curved @ state.x.reshape(-1)),
        noise=noise,
        discrepancy=discrepancy,
        freedom=freedom,
        intercepts=_intercepts(data, weights, data.y - excess),
        runs=np.array([], dtype=np.intp),
        residuals=left,
        excess=excess,
    )


def _leverage(data: SelectedRuns, weights: Array, by_x: Array, by_shape: Array, normal: _Normal) -> Array:
    """Share of each run in its own fitted value."""
    inverse = np.linalg.inv(normal.xx)
    across = inverse @ normal.xt
    shape = np.linalg.inv(normal.tt - np.einsum("skc,skd->cd", normal.xt, across))
    own = inverse + across @ shape @ np.swapaxes(across, 1, 2)
    border = (across @ shape)[data.scale]
    value = np.einsum("ik,ikj,ij->i", by_x, own[data.scale], by_x) - 2 * np.einsum(
        "ik,ikc,ic->i", by_x, border, by_shape
    )
    value += np.einsum("ic,cd,id->i", by_shape, shape, by_shape)
    found: Array = weights * value + weights / np.bincount(data.intercept, weights)[data.intercept]
    return np.clip(found, 0.0, 0.95)


def _intercepts(data: SelectedRuns, weights: Array, level: Array) -> Array:
    """Log loss at each scale's optimum, the mean over its seeds."""
    total = np.bincount(data.intercept, weights)
    by_height = np.bincount(data.intercept, weights * level) / total
    scale = np.zeros(len(total), dtype=np.intp)
    scale[data.intercept] = data.scale
    count = np.bincount(scale, minlength=len(data.octaves))
    with np.errstate(invalid="ignore"):
        found: Array = np.bincount(scale, by_height, len(data.octaves)) / count
    return found
