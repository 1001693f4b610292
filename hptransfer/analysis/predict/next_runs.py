"""Next runs, ranked by their narrowing of the target's interval per cost.

In a normal model the width of an interval does not depend on the outcome of a run, only on its position. A run at u
octaves from its scale's optimum has information about that optimum in proportion to the slope of the response surface
over the noise of its loss. At a trained scale a single run counts; a new scale needs a run on every side of its
optimum, because its intercept is unknown too. The ranking is greedy: each run is judged after those before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.laws.model_averaging import Component
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.tables.arrays import Array, Axes

# Candidate distances from a scale's optimum in octaves, along one hyperparameter at a time.
DISTANCES = (0.5, 1.0, 1.5, 2.0)
# Octaves within which a value counts as already tried.
TRIED_OCTAVES = 0.2
# Heaviest points of the average over laws, which are used; cheapest scales, which are considered.
USED_POINTS, CANDIDATE_SCALES = 3, 60
# Bound on the cost of all solves together; one costs the square of the number of optima. Then the minimum numbers of
# candidates and of ranked runs.
MOST_WORK, FEWEST_CANDIDATES, FEWEST_RUNS = 2e7, 24, 4


@dataclass(frozen=True, eq=False)
class NextRun:
    """Runs with the largest gain per cost after those ranked before them.

    Attributes:
        settings: log2 of the tuned values, (runs, tuned): one run, or several at a new scale.
        flops: of all these runs.
        narrowing: reduction of the target's interval, as a share of its width.
    """

    axes: Axes
    settings: Array
    flops: float
    narrowing: float


@dataclass(frozen=True, eq=False)
class _OptimaInformation:
    """Scales with the information about their optima."""

    scales: Sequence[Axes]
    information: Array

    def index(self, axes: Axes) -> int | None:
        """Return the position of a scale, None for a new one."""
        return next((index for index, scale in enumerate(self.scales) if scale == axes), None)

    def with_run(self, axes: Axes, added: Array) -> _OptimaInformation:
        """Return the information with that of runs at a scale added.

        Args:
            added: information of the runs about the scale's optimum, (tuned, tuned).
        """
        tuned = len(added)
        index = self.index(axes)
        scales, information = list(self.scales), self.information
        if index is None:
            index = len(scales)
            scales.append(axes)
            information = np.pad(information, (0, tuned))
        rows = slice(index * tuned, (index + 1) * tuned)
        information = information.copy()
        information[rows, rows] += added
        return _OptimaInformation(scales, information)


def next_runs(fit: Fit, target: Axes, *, count: int = 20) -> list[NextRun]:
    """Rank the most useful runs, best first.

    Args:
        target: scale whose interval is to become narrower.
        count: number of runs; fewer are returned if no other run narrows the interval.
    """
    surface = next(shape.surface for shape in fit.shapes if shape.surface)
    parts = fit.mixture.heaviest(USED_POINTS)
    state = _OptimaInformation(fit.runs.scales, surface.information)
    candidates = _candidates(fit, surface, target)
    solves = MOST_WORK / len(state.information) ** 2 / len(parts)  # each takes long for many scales
    candidates = candidates[: max(FEWEST_CANDIDATES, int(solves / FEWEST_RUNS))]
    count = min(count, max(FEWEST_RUNS, int(solves / max(1, len(candidates)))))
    ranked: list[NextRun] = []
    while candidates and len(ranked) < count:
        gains = _narrowings(parts, state, target, candidates)
        best = int(np.argmax(gains / [candidate.flops for candidate in candidates]))
        if gains[best] <= 0:
            break
        chosen = candidates.pop(best)
        state = state.with_run(chosen.axes, chosen.added)
        ranked.append(NextRun(chosen.axes, chosen.settings, chosen.flops, float(1 - np.exp(-gains[best]))))
        if chosen.is_new_scale:  # single runs would now count there
            candidates = [candidate for candidate in candidates if candidate.axes != chosen.axes]
    return ranked


def next_table(fit: Fit, runs: Sequence[NextRun]) -> pd.DataFrame:
    """Return the ranked runs as a table, one row per run.

    Columns: rank, the scale, the tuned values, FLOPs of all runs of the rank, and their narrowing of the interval.
    """
    rows = []
    for rank, proposal in enumerate(runs, start=1):
        for point in proposal.settings:
            values = dict(zip(fit.tuned, map(float, 2.0**point), strict=True))
            cost_and_gain = {"flops": proposal.flops, "narrowing": proposal.narrowing}
            rows.append({"rank": rank, **proposal.axes, **values, **cost_and_gain})
    return pd.DataFrame(rows, columns=["rank", *fit.columns.scales, *fit.tuned, "flops", "narrowing"])


def _narrowings(
    parts: Sequence[Component], state: _OptimaInformation, target: Axes, candidates: Sequence[_Candidate]
) -> Array:
    """Return each candidate's reduction of the log width of the interval, (candidates,).

    It is the mean over hyperparameters and components of the law. All follow from one posterior: a run's information D
    about an optimum x changes the variance of the target's optimum f by -C D (1 + V D)^-1 C', where V is the variance
    of x and C the covariance of f and x before the run.
    """
    added = np.array([candidate.added for candidate in candidates])
    tuned = added.shape[1]
    indices = [state.index(candidate.axes) for candidate in candidates]
    known = np.array([index is not None for index in indices])
    rows = np.array([0 if index is None else index for index in indices])[:, None] * tuned + np.arange(tuned)
    narrowings = np.zeros(len(candidates))
    for part in parts:
        scatter = part.posterior.scatter[0]
        features = part.law.block_features(part.variant.matrix(state.scales))
        law_precision = np.tile(scatter**-2.0, len(state.scales))
        precision = part.posterior.deviations.reshape(-1) ** -2.0
        of_optima = np.linalg.inv(state.information + np.diag(law_precision))
        by_coefficients = of_optima @ (law_precision[:, None] * features)
        measured = features.T @ (law_precision[:, None] * (features - by_coefficients))
        covariance = np.linalg.inv(measured + np.diag(precision))
        new = part.law.block_features(part.variant.matrix([candidate.axes for candidate in candidates]))
        new = new.reshape(len(candidates), tuned, -1)
        by_law = np.where(known[:, None, None], by_coefficients[rows], new)
        own = np.where(known[:, None, None], of_optima[rows[:, :, None], rows[:, None, :]], np.diag(scatter**2.0))
        variance = own + by_law @ covariance @ np.swapaxes(by_law, 1, 2)
        row = part.law.block_features(part.variant.matrix([target]))
        crossed = row @ covariance @ np.swapaxes(by_law, 1, 2)
        solved = np.linalg.solve(np.eye(tuned) + variance @ added, np.swapaxes(crossed, 1, 2))
        reduction = np.einsum("ckj,cji,cik->ck", crossed, added, solved)
        before = np.einsum("kc,cd,kd->k", row, covariance, row) + scatter**2
        narrowings -= part.weights.item() * np.mean(np.log1p(-reduction / before), axis=1) / 2
    return narrowings


@dataclass(frozen=True, eq=False)
class _Candidate:
    axes: Axes
    settings: Array
    flops: float
    added: Array
    is_new_scale: bool


def _candidates(fit: Fit, surface: ResponseSurface, target: Axes) -> list[_Candidate]:
    flops = _flops_law(fit)
    swept = {_key(axes) for axes in fit.runs.scales}
    scales = [*fit.runs.scales, *(axes for axes in _scale_grid(fit, target) if _key(axes) not in swept)]
    scales = sorted((axes for axes in scales if flops(axes) < flops(target)), key=flops)[:CANDIDATE_SCALES]
    candidates: list[_Candidate] = []
    for axes in scales:
        octaves = fit.runs.octaves([axes])[0]
        optimum = np.minimum(fit.mixture.mean([axes])[0], fit.columns.upper)
        directions = [sign * direction for direction in np.eye(len(fit.tuned)) for sign in (-1, 1)]
        offsets = [direction * distance for distance in DISTANCES for direction in directions]
        if _key(axes) in swept:
            index = [_key(scale) for scale in fit.runs.scales].index(_key(axes))
            optimum = fit.optima[index].x
            tried = fit.runs.x[fit.runs.of_scale(index)]
            untried = [
                u for u in offsets if np.abs(tried - optimum - u).max(axis=1).min(initial=np.inf) > TRIED_OCTAVES
            ]
            run_sets = [np.array([u]) for u in untried]
        else:
            run_sets = [
                np.array([np.zeros(len(fit.tuned)), *(u for u in offsets if np.isclose(np.abs(u).sum(), distance))])
                for distance in DISTANCES
            ]
        for u in run_sets:
            u = u[(optimum + u <= fit.columns.upper).all(axis=1)]
            is_new_scale = _key(axes) not in swept
            if len(u) <= is_new_scale:
                continue  # a single run has no other run to compare with
            cost = flops(axes) * len(u)
            added = _added_information(surface, u, octaves, is_new_scale=is_new_scale)
            candidates.append(_Candidate(axes, optimum + u, cost, added, is_new_scale))
    return candidates


def _added_information(surface: ResponseSurface, u: Array, octaves: Array, *, is_new_scale: bool) -> Array:
    """Return the information of runs about their scale's optimum, (tuned, tuned).

    Args:
        u: octaves from the optimum, (runs, tuned).
        is_new_scale: True if the scale has no other runs, so that its intercept is unknown.
    """
    excess, by_x, _ = surface.shape.linearized(u, np.tile(octaves, (len(u), 1)))
    weights = 1 / (surface.noise**2 + (surface.discrepancy * excess) ** 2)
    if is_new_scale:
        by_x = by_x - (weights @ by_x) / weights.sum()
    added: Array = by_x.T @ (by_x * weights[:, None])
    return added


def _scale_grid(fit: Fit, target: Axes) -> list[dict[str, float]]:
    """Return combinations of swept values, with one more octave per axis.

    The additional value does not exceed the target's.
    """
    values = []
    for axis, swept in fit.swept.values.items():
        next_octave = [swept[-1] * 2] if len(swept) > 1 and swept[-1] * 2 <= max(target[axis], swept[-1]) else []
        values.append([*swept, *next_octave])
    return [dict(zip(fit.columns.scales, point, strict=True)) for point in itertools.product(*values)]


def _key(axes: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(float(value) for value in axes.values())


def _flops_law(fit: Fit) -> Callable[[Axes], float]:
    """Return a power law of FLOPs, fitted to the trained scales."""
    octaves = fit.runs.octaves(fit.runs.scales)
    columns = np.column_stack([np.ones(len(octaves)), octaves])
    powers = np.linalg.lstsq(columns, np.log2(fit.runs.flops), rcond=None)[0]
    return lambda axes: float(2.0 ** (powers[0] + fit.runs.octaves([axes])[0] @ powers[1:]))
