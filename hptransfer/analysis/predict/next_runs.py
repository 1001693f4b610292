"""What to run next: runs ranked by how much they would narrow the target's interval for their cost.

In a normal model the width of an interval does not depend on how a run turns out, only on where it
is: a run at u octaves from its scale's optimum says something of that optimum by the slope of the
bowl there, over the noise of its loss. At a scale that has been trained one run counts alone; a scale
that has not needs a run on every side of its optimum, because its intercept is not known either. The
ranking is greedy: each run is judged after those before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.laws.model_averaging import Component, normalized
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.statistics.linear_model import LinearLaw, OptimaLikelihood, solve
from hptransfer.analysis.tables.arrays import Array, Axes

# Octaves from a scale's optimum that are considered, along one hyperparameter at a time.
AWAY = (0.5, 1.0, 1.5, 2.0)
# Octaves within which a value counts as tried.
TRIED = 0.2
# Forms of the law that are counted, heaviest first, and scales that are considered, cheapest first.
COMPONENTS, SCALES = 3, 60
# Bound on all solves together, each as the square of the number of optima; but so much is looked at in any case.
WORK, FEWEST_CANDIDATES, FEWEST_RUNS = 2e7, 24, 4


@dataclass(frozen=True, eq=False)
class NextRun:
    """Runs that are worth most after those ranked before them.

    Attributes:
        settings: log2 of the tuned values, (runs, tuned): one run, or several where a scale is new.
        flops: of all of them.
        narrowing: by how much the target's interval becomes narrower, as a share of its width.
    """

    axes: Axes
    settings: Array
    flops: float
    narrowing: float


@dataclass(frozen=True, eq=False)
class _State:
    """Scales with what is told of them, and the law's features there."""

    scales: Sequence[Axes]
    information: Array

    def place(self, axes: Axes) -> int | None:
        return next((place for place, scale in enumerate(self.scales) if scale == axes), None)

    def with_run(self, axes: Axes, added: Array) -> _State:
        """The state after runs at a scale that add so much information of its optimum, (tuned, tuned)."""
        tuned = len(added)
        place = self.place(axes)
        scales, information = list(self.scales), self.information
        if place is None:
            place = len(scales)
            scales.append(axes)
            information = np.pad(information, (0, tuned))
        rows = slice(place * tuned, (place + 1) * tuned)
        information = information.copy()
        information[rows, rows] += added
        return _State(scales, information)


def next_runs(fit: Fit, target: Axes, *, count: int = 20) -> list[NextRun]:
    """The most worthwhile runs, best first; fewer if nothing narrows the interval any more.

    Args:
        target: whose interval is to become narrower.
    """
    surface = next(shape.surface for shape in fit.shapes if shape.surface)
    parts = normalized(fit.mixture.components[:COMPONENTS])
    state = _State(fit.runs.scales, surface.information)
    candidates = _candidates(fit, surface, target)
    solves = WORK / len(state.information) ** 2 / len(parts)  # of many scales each takes long: fewer are looked at
    candidates = candidates[: max(FEWEST_CANDIDATES, int(solves / FEWEST_RUNS))]
    count = min(count, max(FEWEST_RUNS, int(solves / max(1, len(candidates)))))
    found: list[NextRun] = []
    while candidates and len(found) < count:
        before = _log_width(fit, parts, state, target)
        gains = [before - _log_width(fit, parts, state.with_run(one.axes, one.added), target) for one in candidates]
        worth = [gain / one.flops for gain, one in zip(gains, candidates, strict=True)]
        best = int(np.argmax(worth))
        if gains[best] <= 0:
            break
        chosen = candidates.pop(best)
        state = state.with_run(chosen.axes, chosen.added)
        found.append(NextRun(chosen.axes, chosen.settings, chosen.flops, float(1 - np.exp(-gains[best]))))
        if chosen.new:  # the rest of what could be done there would now count alone
            candidates = [one for one in candidates if one.axes != chosen.axes]
    return found


def next_table(fit: Fit, runs: Sequence[NextRun]) -> pd.DataFrame:
    """One row a run: rank, the scale, the tuned values, FLOPs of the rank, and by how much it narrows the interval."""
    rows = []
    for rank, one in enumerate(runs, start=1):
        for setting in one.settings:
            values = dict(zip(fit.tuned, map(float, 2.0**setting), strict=True))
            rows.append({"rank": rank, **one.axes, **values, "flops": one.flops, "narrowing": one.narrowing})
    return pd.DataFrame(rows, columns=["rank", *fit.columns.scales, *fit.tuned, "flops", "narrowing"])


def _log_width(fit: Fit, parts: Sequence[Component], state: _State, target: Axes) -> float:
    """Log of the target's interval, the mean over hyperparameters and forms of the law."""
    told = OptimaLikelihood(state.information, np.zeros(len(state.information)), len(fit.tuned))
    widths = 0.0
    for part in parts:
        law = LinearLaw(part.variant.matrix(state.scales), part.law.means, part.law.deviations)
        covariance = solve(told, law, tuple(part.scatter)).covariance
        row = law.whole(part.variant.matrix([target]))
        variance = np.einsum("kc,cd,kd->k", row, covariance, row) + part.scatter**2
        widths += part.weight * float(np.mean(np.log(variance))) / 2
    return widths


@dataclass(frozen=True, eq=False)
class _Candidate:
    axes: Axes
    settings: Array
    flops: float
    added: Array
    new: bool


def _candidates(fit: Fit, surface: ResponseSurface, target: Axes) -> list[_Candidate]:
    flops = _flops_law(fit)
    seen = {_key(axes) for axes in fit.runs.scales}
    scales = [*fit.runs.scales, *(axes for axes in _grid(fit, target) if _key(axes) not in seen)]
    scales = sorted((axes for axes in scales if flops(axes) < flops(target)), key=flops)[:SCALES]
    found: list[_Candidate] = []
    for axes in scales:
        octaves = fit.runs.octaves([axes])[0]
        optimum = np.minimum(fit.mixture.mean([axes])[0], fit.columns.upper)
        around = [direction * away * sign for away in AWAY for direction in np.eye(len(fit.tuned)) for sign in (-1, 1)]
        if _key(axes) in seen:
            place = [_key(one) for one in fit.runs.scales].index(_key(axes))
            optimum = fit.optima[place].x
            tried = fit.runs.x[fit.runs.of_scale(place)]
            fresh = [u for u in around if np.abs(tried - optimum - u).max(axis=1).min(initial=np.inf) > TRIED]
            sets = [np.array([u]) for u in fresh]
        else:
            sets = [
                np.array([np.zeros(len(fit.tuned)), *(u for u in around if np.isclose(np.abs(u).sum(), away))])
                for away in AWAY
            ]
        for u in sets:
            u = u[(optimum + u <= fit.columns.upper).all(axis=1)]
            new = _key(axes) not in seen
            if len(u) <= new:
                continue  # one run of a scale has no neighbour to be better or worse than
            cost = flops(axes) * len(u)
            found.append(_Candidate(axes, optimum + u, cost, _added(surface, u, octaves, new=new), new))
    return found


def _added(surface: ResponseSurface, u: Array, octaves: Array, *, new: bool) -> Array:
    """What runs at u add to the information of their scale's optimum, (tuned, tuned)."""
    excess, by_x, _ = surface.shape.linearized(u, np.tile(octaves, (len(u), 1)))
    weights = 1 / (surface.noise**2 + (surface.discrepancy * excess) ** 2)
    if new:
        by_x = by_x - (weights @ by_x) / weights.sum()
    added: Array = by_x.T @ (by_x * weights[:, None])
    return added


def _grid(fit: Fit, target: Axes) -> list[dict[str, float]]:
    """Combinations of the values that were seen, and of one octave more along each axis, up to the target's."""
    values = []
    for axis, seen in fit.seen.values.items():
        more = [seen[-1] * 2] if len(seen) > 1 and seen[-1] * 2 <= max(target[axis], seen[-1]) else []
        values.append([*seen, *more])
    return [dict(zip(fit.columns.scales, point, strict=True)) for point in itertools.product(*values)]


def _key(axes: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(float(value) for value in axes.values())


def _flops_law(fit: Fit) -> Callable[[Axes], float]:
    """FLOPs of one run at any scale: a power law through those of the scales that were trained."""
    octaves = fit.runs.octaves(fit.runs.scales)
    columns = np.column_stack([np.ones(len(octaves)), octaves])
    powers = np.linalg.lstsq(columns, np.log2(fit.runs.flops), rcond=None)[0]
    return lambda axes: float(2.0 ** (powers[0] + fit.runs.octaves([axes])[0] @ powers[1:]))
