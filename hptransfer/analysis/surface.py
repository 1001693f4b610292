"""One surface over all runs: a bowl whose place is free by scale and whose shape is shared by all scales.

The log of a run's loss is a height plus, for each tuned hyperparameter k, `A_k phi(kappa_k, p_k)`:

    u = log2 of the tuned values minus the scale's optimum                      (octaves)
    p_k = u_k - sum over j > k of gamma_kj u_j                                  (a ridge: tuned axes interact)
    log A_k = a_k + sum over axes of t_k,axis log2(axis over its middle)        (curvature moves with scale)
    phi = 2 (exp(kappa p) - 1 - kappa p) / kappa^2 or p^2 (1 + kappa p / 3)     (unequal sides; p^2 at kappa 0)

Unequal sides matter most: the loss climbs faster at high learning rates, and a parabola is biased
low (science notes C.2, D.2). Shape is shared, so that a handful of runs places a scale's optimum.
What a bowl of any one form misses grows with the loss above the optimum. How fast, the runs show; so
a run counts by how near to the optimum it is, far runs hardly at all where the form is wrong and
fully where it is right; and the answer is the mean over two forms of the bowl.

The least squares are by damped Gauss-Newton steps. Heights are eliminated exactly and scales meet
only in the shape, so the cost is linear in runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.optimize import nnls

from hptransfer.analysis.runs import Array, Index, Runs

FORMS = ("linear-exponential", "cubic")

# Log loss above the scale's best beyond which a setting says nothing of where the best is; but of every scale one
# setting for each tuned hyperparameter and so many more are kept in any case.
FAR = 0.4
KEPT = 2
# Of so many settings of a scale one may be a stray, if its log loss is so far below all others.
MANY, STRAY = 6, 0.12
# Rounds that ask by what share of the excess the form is wrong, a run counting by what the round before found; then
# rounds in which that share counts so many times, for a form is wrong alike in all runs: it does not average out.
ASKING, DECIDING = 3, 2
CAUTION = 8.0
MISTRUST = (0.05, 1.0)
FIRST_NOISE = 0.002
FIRST_REWEIGHTS, REWEIGHTS = 4, 2
STEPS = 25
ENOUGH = 1e-7
# Exponents beyond this go on as a straight line: a far run must not overflow.
STEEP = 5.0
# A cubic bowl's low side goes on as a parabola from where it would turn down.
TURN = -2.0


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """What is known of the bowl before any run: independent normals, (mean, standard deviation).

    Attributes:
        curvature: of each a_k, log of log loss per octave squared.
        trend: of every t_k,axis.
        skew: of kappa_k, by tuned hyperparameter.
        ridge: of gamma_kj, by pair k < j.
    """

    curvature: tuple[float, float]
    trend: tuple[float, float]
    skew: tuple[tuple[float, float], ...]
    ridge: tuple[tuple[float, float], ...]

    def rows(self, tuned: int, axes: int) -> Array:
        """Means and deviations of all shape parameters, (2, parameters)."""
        normals = [self.curvature] * tuned + [self.trend] * (tuned * axes) + [*self.skew, *self.ridge]
        return np.array(normals, dtype=float).T


class Guide(Protocol):
    """A law that keeps scales with few runs near the others while the surface is fitted."""

    def start(self, x: Array) -> tuple[Array, Array]:
        """Rough optima, (scales, tuned), to where the law has them and the scatter about it, (tuned,)."""

    def follow(self, information: Array, pull: Array) -> tuple[Array, Array]:
        """The same from what a fit says of the optima."""


@dataclass(frozen=True, eq=False)
class Bowl:
    """The shape: parameters in the order of ShapePrior.rows."""

    form: str
    tuned: int
    axes: int
    theta: Array

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(k, j) for k in range(self.tuned) for j in range(k + 1, self.tuned)]

    @property
    def _parts(self) -> tuple[Array, Array, Array, Array]:
        k, a = self.tuned, self.axes
        theta = self.theta
        return theta[:k], theta[k : k + k * a].reshape(k, a), theta[k + k * a : 2 * k + k * a], theta[2 * k + k * a :]

    def excess(self, u: Array, octaves: Array) -> Array:
        """Log loss above the optimum, (runs,), at u octaves from it, (runs, tuned)."""
        found: Array = self._terms(u, octaves)[0].sum(axis=1)
        return found

    def curvature(self, octaves: Array) -> Array:
        """Log loss per octave squared along each p_k, (scales, tuned)."""
        log_a, trend, _, _ = self._parts
        found: Array = np.exp(log_a + octaves @ trend.T)
        return found

    def hessian(self, octaves: Array) -> Array:
        """Half of the second derivatives of the log loss at the optimum of one scale, (tuned, tuned)."""
        skewed = self._slanted(np.eye(self.tuned)).T
        found: Array = skewed.T @ np.diag(self.curvature(octaves[None])[0]) @ skewed
        return found

    def _slanted(self, u: Array) -> Array:
        p = u.copy()
        for (k, j), gamma in zip(self.pairs, self._parts[3], strict=True):
            p[:, k] -= gamma * u[:, j]
        return p

    def _terms(self, u: Array, octaves: Array) -> tuple[Array, Array, Array, Array]:
        """By run and tuned hyperparameter: what is added to the log loss, its derivatives by p and by kappa; p."""
        phi = _PHI[self.form]
        p, scale, skew = self._slanted(u), self.curvature(octaves), self._parts[2]
        parts = [np.stack(phi(skew[k], p[:, k])) for k in range(self.tuned)]
        value, by_p, by_skew = (scale * np.stack([part[row] for part in parts], axis=1) for row in range(3))
        return value, by_p, by_skew, p

    def linearized(self, u: Array, octaves: Array) -> tuple[Array, Array, Array]:
        """Excess, its derivatives by the scale's optimum, (runs, tuned), and by the shape, (runs, parameters)."""
        value, by_p, by_skew, _ = self._terms(u, octaves)
        by_x = -by_p
        for (k, j), gamma in zip(self.pairs, self._parts[3], strict=True):
            by_x[:, j] += gamma * by_p[:, k]
        by_trend = [value[:, [k]] * octaves for k in range(self.tuned)]
        by_ridge = [-by_p[:, [k]] * u[:, [j]] for k, j in self.pairs]
        return value.sum(axis=1), by_x, np.concatenate([value, *by_trend, by_skew, *by_ridge], axis=1)


def _linear_exponential(kappa: float, p: Array) -> tuple[Array, Array, Array]:
    z = kappa * p
    if abs(kappa) < 1e-2:
        return p**2 * (1 + z / 3 + z**2 / 12), 2 * p * (1 + z / 2 + z**2 / 6), p**3 / 3 + kappa * p**4 / 6
    inner = np.minimum(z, STEEP)
    grown = np.expm1(inner)
    value, slope = 2 * (grown - inner) / kappa**2, 2 * grown / kappa
    beyond = (z - inner) / kappa
    by_kappa = np.where(z > STEEP, 0.0, 2 * p * grown / kappa**2 - 2 * value / kappa)
    return value + slope * beyond, slope, by_kappa


def _cubic(kappa: float, p: Array) -> tuple[Array, Array, Array]:
    z, turned = kappa * p, kappa * p < TURN
    value = p**2 * (1 + np.maximum(z, TURN) / 3)
    slope = np.where(turned, 2 * p * (1 + TURN / 3), 2 * p + kappa * p**2)
    return value, slope, np.where(turned, 0.0, p**3 / 3)


_PHI: dict[str, Callable[[float, Array], tuple[Array, Array, Array]]] = {
    "linear-exponential": _linear_exponential,
    "cubic": _cubic,
}


@dataclass(frozen=True, eq=False)
class Surface:
    """A fitted surface.

    What the runs say of all optima together is normal: its precision `information`, (scales * tuned)
    squared, scale by scale, and `pull`, precision times mean. A scale with few runs has little of it.

    Attributes:
        x: log2 of each scale's optimum, (scales, tuned), few runs being guided by the law.
        octaves: log2 of every scale's axes over their middle, (scales, axes).
        noise: standard deviation of a run's log loss at the optimum.
        misfit: share of the excess by which the bowl's form is wrong.
        freedom: degrees of freedom that noise and misfit rest on.
        heights: log loss at each scale's optimum; NaN for a scale without a run near it.
        runs: positions of the runs that were fitted, with their `residuals` and `excess` in log loss.
    """

    bowl: Bowl
    x: Array
    octaves: Array
    information: Array
    pull: Array
    noise: float
    misfit: float
    freedom: float
    heights: Array
    runs: Index
    residuals: Array
    excess: Array


@dataclass(frozen=True, eq=False)
class _Data:
    """The runs that are fitted; x, log losses, scale and height of each."""

    x: Array
    y: Array
    scale: Index
    height: Index
    octaves: Array

    def centred(self, weights: Array, columns: Array) -> Array:
        """Columns less their weighted mean within each height: what is left of them once heights are free."""
        total = np.bincount(self.height, weights)
        found = np.empty_like(columns)
        for place, column in enumerate(columns.T):
            found[:, place] = column - (np.bincount(self.height, weights * column) / total)[self.height]
        return found


def fit_surface(runs: Runs, form: str, prior: ShapePrior, guide: Guide) -> Surface:
    """Fits one form of the bowl to all finite runs."""
    kept, data = _near(runs)
    tuned, axes = runs.x.shape[1], data.octaves.shape[1]
    means, deviations = prior.rows(tuned, axes)
    x, log_a = _start(data)
    theta = means.copy()
    theta[:tuned] = np.clip(log_a, means[:tuned] - 2 * deviations[:tuned], means[:tuned] + 3 * deviations[:tuned])
    state = _State(Bowl(form, tuned, axes, theta), x)
    noise, mistrust, found = FIRST_NOISE, MISTRUST[1], None
    towards, scatter = guide.start(x)
    for cycle in range(ASKING + DECIDING):
        if found is not None:
            noise = found.noise
            if cycle <= ASKING:
                mistrust = float(np.clip((CAUTION if cycle == ASKING else 1.0) * found.misfit, *MISTRUST))
            towards, scatter = guide.follow(found.information, found.pull)
        for _ in range(REWEIGHTS if cycle else FIRST_REWEIGHTS):
            weights = _weights(data, state, noise, mistrust)
            state = _solve(data, weights, state, means, deviations, towards, 1 / scatter**2)
        found = _told(data, weights, state, means, deviations, 1 / scatter**2)
    assert found is not None
    return replace(found, runs=kept)


def _near(runs: Runs) -> tuple[Index, _Data]:
    """The finite runs near the best of their scale, in log loss; repeats of a setting together, by their mean.

    Levels are taken over the least of what shares a height, so that a lucky seed does not pass for a better setting.
    """
    finite = np.flatnonzero(np.isfinite(runs.loss))
    x, y, height = runs.x[finite], np.log(runs.loss[finite]), runs.height[finite]
    least = np.full(runs.height.max() + 1, np.inf)
    np.minimum.at(least, height, y)
    settings, setting = np.unique(np.column_stack([runs.scale[finite], x]), axis=0, return_inverse=True)
    setting = setting.reshape(-1)
    level = np.bincount(setting, y - least[height]) / np.bincount(setting)
    order = np.lexsort((level, settings[:, 0]))
    few = KEPT + runs.x.shape[1]
    near = np.zeros(len(settings), dtype=bool)
    for own in np.split(order, np.flatnonzero(np.diff(settings[order, 0])) + 1):
        sound = own[int(_stray(settings[own, 1:], level[own])) :]
        near[sound[level[sound] < level[sound[0]] + FAR]] = True
        near[sound[:few]] = True
    kept = finite[near[setting]]
    height = np.unique(runs.height[kept], return_inverse=True)[1].reshape(-1)
    return kept, _Data(runs.x[kept], np.log(runs.loss[kept]), runs.scale[kept], height, runs.octaves(runs.scales))


def _stray(x: Array, y: Array) -> bool:
    """Whether a scale's lowest loss lies far below all others and away from the next best: a mistake, no optimum.

    Args:
        x, y: of the scale's settings, losses ascending.
    """
    if len(y) < MANY or y[1] - y[0] <= STRAY:
        return False
    nearest = np.argsort(np.abs(x[1:] - x[0]).max(axis=1))[: 2 * x.shape[1]]
    return 0 not in nearest


def _start(data: _Data) -> tuple[Array, Array]:
    """Rough optima, the runs' places weighted towards the best of each scale, and rough log curvatures."""
    scales, tuned = len(data.octaves), data.x.shape[1]
    best = np.full(scales, np.inf)
    np.minimum.at(best, data.scale, data.y)
    excess = data.y - best[data.scale]
    soft = max(float(np.quantile(excess, 0.25)), 1e-6)
    weights = 1 / (soft + excess) ** 2
    total = np.bincount(data.scale, weights, scales)
    x = _summed(data, data.x * weights[:, None])
    x = np.where(total[:, None] > 0, x / np.maximum(total, 1e-300)[:, None], data.x.mean(axis=0))
    u = (data.x - x[data.scale]) ** 2 / (soft + excess)[:, None]
    curvature, _ = nnls(np.column_stack([u, 1 / (soft + excess)]), excess / (soft + excess))
    log_curvature: Array = np.log(np.maximum(curvature[:tuned], 1e-6))
    return x, log_curvature


@dataclass(frozen=True, eq=False)
class _State:
    bowl: Bowl
    x: Array

    def moved(self, by_shape: Array, by_x: Array) -> _State:
        theta = self.bowl.theta + np.clip(by_shape, -1, 1)
        return _State(replace(self.bowl, theta=theta), self.x + np.clip(by_x, -2, 2))

    def from_optimum(self, data: _Data) -> tuple[Array, Array]:
        """Octaves of each run from its scale's optimum, and its scale's octaves."""
        return data.x - self.x[data.scale], data.octaves[data.scale]


def _weights(data: _Data, state: _State, noise: float, mistrust: float) -> Array:
    """By the noise and by the share of the excess that the form may miss; strays count less (a soft L1 loss)."""
    excess = state.bowl.excess(*state.from_optimum(data))
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
    def of(cls, data: _Data, weights: Array, by_x: Array, by_shape: Array) -> _Normal:
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


def _linearized(data: _Data, weights: Array, state: _State) -> tuple[Array, Array, Array, Array]:
    """Excess, then residuals and derivatives with the heights eliminated."""
    excess, by_x, by_shape = state.bowl.linearized(*state.from_optimum(data))
    all_columns = np.concatenate([(data.y - excess)[:, None], by_x, by_shape], axis=1)
    centred = data.centred(weights, all_columns)
    tuned = by_x.shape[1]
    return excess, centred[:, 0], centred[:, 1 : 1 + tuned], centred[:, 1 + tuned :]


def _solve(
    data: _Data, weights: Array, state: _State, means: Array, deviations: Array, towards: Array, on_x: Array
) -> _State:
    """Least squares at fixed weights, by Gauss-Newton steps that are damped until the objective falls."""
    on_shape = 1 / deviations**2

    def objective(at: _State, left: Array) -> float:
        far = ((at.x - towards) ** 2 @ on_x).sum() + ((at.bowl.theta - means) ** 2 @ on_shape)
        return float((weights * left**2).sum() + far)

    _, left, by_x, by_shape = _linearized(data, weights, state)
    value, damping = objective(state, left), 1e-3
    for _ in range(STEPS):
        normal = _Normal.of(data, weights, by_x, by_shape).with_prior(on_x, on_shape)
        pull_x = _summed(data, by_x * (weights * left)[:, None]) - (state.x - towards) * on_x
        pull_shape = by_shape.T @ (weights * left) - (state.bowl.theta - means) * on_shape
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


def _summed(data: _Data, rows: Array) -> Array:
    """Sums of rows by scale."""
    found: Array = np.stack([np.bincount(data.scale, column, len(data.octaves)) for column in rows.T], axis=1)
    return found


def _told(data: _Data, weights: Array, state: _State, means: Array, deviations: Array, on_x: Array) -> Surface:
    """What the runs say of the optima, the shape being integrated out and the law's guidance left out.

    The weights say how far a run is trusted, not how noisy it is; so the precision is a sandwich, with
    variances that the residuals show.
    """
    on_shape = 1 / deviations**2
    excess, left, by_x, by_shape = _linearized(data, weights, state)
    plain = _Normal.of(data, weights, by_x, by_shape)
    leverage = _leverage(data, weights, by_x, by_shape, plain.with_prior(on_x, on_shape))
    noise, misfit = _noise(left, excess, leverage)
    variance = _by_scale(data, left, excess, leverage, noise**2 + (misfit * excess) ** 2)

    prior = np.diag(on_shape)
    through = plain.border() @ np.linalg.inv(plain.tt + prior)
    curved = plain.whole_xx() - through @ plain.border().T
    spread = _Normal.of(data, weights**2 * variance, by_x, by_shape)
    crossed = through @ spread.border().T
    scores = spread.whole_xx() - crossed - crossed.T + through @ (spread.tt + prior) @ through.T
    scores += np.eye(len(scores)) * (1e-6 * np.trace(scores) / len(scores) + 1e-12)
    freedom = max(1.0, float(len(left) - leverage.sum()))
    sandwich = np.linalg.solve(scores, curved).T * _t_shrink(freedom)
    pull_shape = by_shape.T @ (weights * left) - (state.bowl.theta - means) * on_shape
    score = _summed(data, by_x * (weights * left)[:, None]).reshape(-1) - through @ pull_shape
    information = sandwich @ curved
    return Surface(
        bowl=state.bowl,
        x=state.x,
        octaves=data.octaves,
        information=(information + information.T) / 2,
        pull=sandwich @ (score + curved @ state.x.reshape(-1)),
        noise=noise,
        misfit=misfit,
        freedom=freedom,
        heights=_heights(data, weights, data.y - excess),
        runs=np.array([], dtype=np.intp),
        residuals=left,
        excess=excess,
    )


def _leverage(data: _Data, weights: Array, by_x: Array, by_shape: Array, normal: _Normal) -> Array:
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
    found: Array = weights * value + weights / np.bincount(data.height, weights)[data.height]
    return np.clip(found, 0.0, 0.95)


# Degrees of freedom and standard deviation of what is assumed of the noise, in log loss, before any run.
NOISE_FREEDOM, NOISE_ASSUMED = 3.0, 0.001
# Of the residuals' distribution.
STRAY_FREEDOM = 8.0
_MISFITS = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6])
_NOISES = np.geomspace(1e-6, 0.3, 64)
# Runs that the search for noise and misfit looks at, evenly spread over the excess: it is a grid of sums.
_LOOKED_AT = 4000


def _noise(left: Array, excess: Array, leverage: Array) -> tuple[float, float]:
    """Noise and misfit by maximum likelihood of residuals with variance noise^2 + (misfit excess)^2.

    Residuals are Student's t, so that a few strays do not pass for noise.
    """
    squares = left**2 / (1 - leverage)
    order = np.argsort(excess)[:: max(1, len(excess) // _LOOKED_AT)]
    squares, above = squares[order], excess[order]
    best = (np.inf, NOISE_ASSUMED, 0.0)
    for misfit in _MISFITS:
        variance = _NOISES[:, None] ** 2 + (misfit * above) ** 2
        assumed = NOISE_FREEDOM * (2 * np.log(_NOISES) + (NOISE_ASSUMED / _NOISES) ** 2)
        tails = (STRAY_FREEDOM + 1) * np.log1p(squares / variance / STRAY_FREEDOM)
        unlikely = (np.log(variance) + tails).sum(axis=1) + assumed
        place = int(np.argmin(unlikely))
        best = min(best, (float(unlikely[place]), float(_NOISES[place]), float(misfit)))
    return best[1], best[2]


# Weight of the common noise against a scale's own, in runs.
COMMON_NOISE = 10.0


def _by_scale(data: _Data, left: Array, excess: Array, leverage: Array, variance: Array) -> Array:
    """Variances with each scale's own noise, as far as its runs show it."""
    scales = len(data.octaves)
    ratio = np.bincount(data.scale, left**2 / variance, scales)
    freedom = np.bincount(data.scale, 1 - leverage, scales)
    own: Array = (COMMON_NOISE + ratio) / (COMMON_NOISE + freedom)
    return variance * own[data.scale]


def _t_shrink(freedom: float) -> float:
    """Variance of a normal over that of Student's t: few degrees of freedom know less."""
    return (freedom - 2) / freedom if freedom > 4 else 0.5


def _heights(data: _Data, weights: Array, level: Array) -> Array:
    """Log loss at each scale's optimum, the mean over its seeds."""
    total = np.bincount(data.height, weights)
    by_height = np.bincount(data.height, weights * level) / total
    scale = np.zeros(len(total), dtype=np.intp)
    scale[data.height] = data.scale
    count = np.bincount(scale, minlength=len(data.octaves))
    with np.errstate(invalid="ignore"):
        found: Array = np.bincount(scale, by_height, len(data.octaves)) / count
    return found
