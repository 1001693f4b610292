"""The fit: where the optimum of every scale is, the law it moves by, and draws of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from hptransfer.analysis import known
from hptransfer.analysis.estimators._base import ESTIMATORS, Found
from hptransfer.analysis.laws._base import Seen
from hptransfer.analysis.loss_law import LossLaw, fit_loss_law
from hptransfer.analysis.mixture import LEVEL_OCTAVES, Mixture, Problem, power_alone, weigh
from hptransfer.analysis.records import Columns
from hptransfer.analysis.runs import Array, Axes, Mask, Runs
from hptransfer.analysis.surface import Surface
from hptransfer.core.errors import FitError

DRAWS = 1000
INTERVAL = (5, 95)
NORMAL_95 = 1.645
ESTIMATOR = "surface"
LAWS = ("constant", "power", "drift", "saturating", "broken", "batch_time", "tokens_per_parameter")
# An exponent whose interval lies within so many octaves per octave of zero counts as transfer.
TOLERANCE = 0.25

TRANSFERS = "transfers"
DRIFTS = "does not transfer"
UNDECIDED = "undecided"

BRACKETED = "bracketed"
EDGE_LOW = "edge, low"
EDGE_HIGH = "edge, high"
BOUNDED = "bounded by divergence"
TOO_FEW = "too few runs"
# Scales that a message names.
NAMED = 4
# Fewer values than this have no inside.
FEWEST_VALUES = 3
# A scale whose own runs place its optimum no better than this says next to nothing of it.
LOOSE_OCTAVES = 1.5
# All runs that place the optimum no better than this, half of what is assumed before any, place it nowhere.
NOWHERE_OCTAVES = LEVEL_OCTAVES / 2
# An exponent whose standard error is so large a share of what was assumed before any run is mostly assumed.
ASSUMED = 0.8


@dataclass(frozen=True)
class Exponent:
    """How the optimum moves with one axis, in octaves per octave, with its 90% interval."""

    value: float
    low: float
    high: float

    @property
    def se(self) -> float:
        return (self.high - self.low) / (2 * NORMAL_95)

    @property
    def verdict(self) -> str:
        if abs(self.low) <= TOLERANCE and abs(self.high) <= TOLERANCE:
            return TRANSFERS
        if self.low > TOLERANCE or self.high < -TOLERANCE:
            return DRIFTS
        return UNDECIDED


@dataclass(frozen=True, eq=False)
class Optimum:
    """The optimum of one scale, as its own runs have it, the bowl's shape being that of all.

    Attributes:
        x: log2 of the optimum, by tuned hyperparameter, and `se` its standard error in octaves, infinite where the
            runs say nothing.
        curvature: of the loss, nats per octave squared, by tuned hyperparameter, the others held.
        loss: nats at the optimum.
        status: by tuned hyperparameter: BRACKETED, or why it is not.
        tried: lowest and highest log2 of what was tried, by tuned hyperparameter.
    """

    axes: Axes
    x: Array
    se: Array
    curvature: Array
    loss: float
    status: tuple[str, ...]
    tried: Array
    runs: int
    diverged: int

    @property
    def bracketed(self) -> bool:
        return all(status == BRACKETED for status in self.status)


@dataclass(frozen=True, eq=False)
class Fit:
    """Everything that was fitted.

    Attributes:
        estimator: whose optima the law goes through.
        optima: of every scale, cheapest first.
        found: what each form of the estimator found; `shapes`, what each form of the surface did.
        mixture: of laws, that predicts; `power`, of power laws alone, that exponents are read off.
        noise: standard deviation of a run's loss at the optimum, in nats.
    """

    runs: Runs
    estimator: str
    optima: Sequence[Optimum]
    found: Sequence[Found]
    shapes: Sequence[Found]
    problem: Problem
    laws: Sequence[str]
    mixture: Mixture
    power: Mixture
    loss_law: LossLaw
    noise: float
    warnings: Sequence[str]

    @property
    def columns(self) -> Columns:
        return self.runs.columns

    @property
    def tuned(self) -> tuple[str, ...]:
        return self.columns.tuned

    @property
    def seen(self) -> Seen:
        return self.problem.seen

    @property
    def expected(self) -> list[str]:
        """What was expected of exponents before any run, where published studies say something."""
        if self.problem.vague:
            return []
        pairs = [(name, axis) for name in self.columns.known for axis in self.seen.moving]
        known_pairs = [(pair, known.slope(*pair)) for pair in pairs if known.slope(*pair) != known.OTHER_SLOPE]
        return [f"{name} along {axis} {mean:+g} \u00b1 {sd:g}" for (name, axis), (mean, sd) in known_pairs]

    @property
    def smallest(self) -> Optimum:
        """The cheapest scale whose optimum is bracketed; the cheapest one if none is."""
        return next((one for one in self.optima if one.bracketed), self.optima[0])

    @cached_property
    def exponents(self) -> dict[str, dict[str, Exponent]]:
        """By tuned hyperparameter and axis."""
        return _exponents(self.power, self.seen, self.tuned)

    def check(self, scale: Axes) -> None:
        """
        Raises:
            FitError: the scale differs on an axis of which only one value was seen.
        """
        for axis, values in self.seen.values.items():
            if len(values) == 1 and scale[axis] != values[0]:
                raise FitError(
                    f"no exponent for {axis}: only {axis}={values[0]:g} was swept, the target has {scale[axis]:g}; "
                    f"sweep at least two values of {axis}, or set the target's to {values[0]:g}"
                )

    def predict(self, scale: Axes) -> Array:
        """log2 of the optimum at a scale with its 90% interval, (tuned, 3): value, low, high.

        The interval holds the uncertainty of the optima, of the law and of its form, and the scatter of single
        scales about it.
        """
        self.check(scale)
        value = self.mixture.mean([scale])[0]
        low, high = np.percentile(self.mixture.scattered(scale), INTERVAL, axis=0)
        return np.stack([value, np.minimum(low, value), np.maximum(high, value)], axis=1)

    def predict_loss(self, scale: Axes) -> tuple[float, float, float]:
        """Loss at the optimum of a scale with its 90% interval, nats."""
        self.check(scale)
        return self.loss_law.at(scale)

    def distance(self, scale: Axes) -> float:
        """Octaves beyond the largest scale seen, the largest over the axes; 0 inside the seen range."""
        return max(0.0, *(float(np.log2(scale[axis] / values[-1])) for axis, values in self.seen.values.items()))

    def lost(self, scale: Axes, away: Array, loss: float) -> Array:
        """Nats lost at a scale by training so many octaves away from its optimum, by the bowl, (places,).

        Args:
            away: octaves, (places, tuned), or (tuned,) for one.
            loss: nats at the optimum.
        """
        away = np.atleast_2d(away)
        logs = np.log2([[one[axis] for axis in self.columns.scales] for one in self.runs.scales])
        octaves = np.log2([scale[axis] for axis in self.columns.scales]) - (logs.min(axis=0) + logs.max(axis=0)) / 2
        shapes = [shape.surface for shape in self.shapes if shape.surface]
        excess = [shape.bowl.excess(away, np.tile(octaves, (len(away), 1))) for shape in shapes]
        found: Array = loss * np.expm1(np.mean(excess, axis=0))
        return found

    def unmoved_cost(self, one: Optimum) -> float:
        """Nats that a scale loses with the smallest scale's optimum."""
        return float(self.lost(one.axes, self.smallest.x - one.x, one.loss)[0])


def fit_table(
    table: pd.DataFrame,
    columns: Columns,
    *,
    estimator: str = ESTIMATOR,
    laws: Sequence[str] = LAWS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Fit:
    """Fits a checked table (see records.check_table).

    Args:
        estimator: a member of analysis.estimators.
        laws: members of analysis.laws that are weighed against each other.

    Raises:
        FitError: too few scales for the axes that were swept, or no optimum inside what was tried.
    """
    runs = Runs.of(table, columns)
    _enough(runs)
    chosen = ESTIMATORS.get(estimator)
    centre = (runs.x.min(axis=0) + runs.x.max(axis=0)) / 2
    problem = Problem(runs.scales, columns.known, centre, chosen.published)
    guide = Problem(runs.scales, columns.known, centre, vague=False)
    shapes = ESTIMATORS.get(ESTIMATOR).find(runs, guide.linear(guide.power()))
    found = shapes if estimator == ESTIMATOR else chosen.find(runs, problem.linear(problem.power()))
    optima = _optima(runs, found, shapes)
    power = Mixture.of(power_alone(problem, found), draws, seed)
    if chosen.published:
        laws = ("power",)
        badly = []
        _placed_alone(optima, problem.seen)
    else:
        badly = _placed_together(runs, optima, shapes, power, problem.seen) + _assumed(power, problem, columns)
    mixture = Mixture.of(weigh(problem, found, laws), draws, seed)
    heights = np.array([np.log(one.loss) for one in optima])
    return Fit(
        runs=runs,
        estimator=estimator,
        optima=optima,
        found=found,
        shapes=shapes,
        problem=problem,
        laws=laws,
        mixture=mixture,
        power=power,
        loss_law=fit_loss_law(runs.scales, heights, draws=draws, seed=seed),
        noise=float(np.median([one.loss for one in optima]) * np.mean([one.noise for one in shapes])),
        warnings=[*badly, *_warnings(optima, problem, columns)],
    )


def _enough(runs: Runs) -> None:
    seen = Seen.of(runs.scales)
    usable = [place for place in range(runs.num_scales) if np.isfinite(runs.loss[runs.of_scale(place)]).any()]
    wanted = 1 + len(seen.moving)
    if not seen.moving:
        raise FitError(
            f"all runs are at one scale ({name_of(runs.scales[0])}); a law needs at least two scales: 1 more needed"
        )
    if len(usable) < wanted:
        without = [name_of(runs.scales[place]) for place in range(runs.num_scales) if place not in usable]
        have = "1 scale has" if len(usable) == 1 else f"{len(usable)} scales have"
        raise FitError(
            f"{have} a run that did not diverge, a law over {', '.join(seen.moving)} needs {wanted}; "
            f"{wanted - len(usable)} more needed" + (f"; all diverged: {', '.join(without)}" if without else "")
        )
    for k, name in enumerate(runs.columns.tuned):
        if (tried := len(np.unique(runs.x[:, k]))) < FEWEST_VALUES:
            raise FitError(
                f"{name} was tried at {tried} value{'s' * (tried > 1)}, at least {FEWEST_VALUES} place an optimum; "
                "leave it out of --tune, or run more"
            )


def _placed_alone(optima: Sequence[Optimum], seen: Seen) -> None:
    """Raises FitError if a law through each scale's own optimum has too few of them."""
    placed = [one for one in optima if np.isfinite(one.se).all()]
    wanted = 1 + len(seen.moving)
    if len(placed) < wanted:
        have = "1 scale has" if len(placed) == 1 else f"{len(placed)} scales have"
        others = _loose([one for one in optima if one not in placed])
        raise FitError(
            f"{have} runs that place an optimum, a law over {', '.join(seen.moving)} needs {wanted}; "
            f"{wanted - len(placed)} more needed: try values on both sides of the best of {others}"
        )


def _placed_together(
    runs: Runs, optima: Sequence[Optimum], shapes: Sequence[Found], power: Mixture, seen: Seen
) -> list[str]:
    """Warnings of hyperparameters whose optimum lies beyond what was tried.

    Raises:
        FitError: all runs together place no optimum: the answer would be what was assumed before any run.
    """
    middle = {axis: float(np.sqrt(values[0] * values[-1])) for axis, values in seen.values.items()}
    error = power.draws([middle])[:, 0].std(axis=0)
    inside = np.mean([_turns(runs, one.surface) for one in shapes if one.surface], axis=0) > 0.5
    nowhere = (error > NOWHERE_OCTAVES) | ~inside.any()
    for name in np.array(runs.columns.tuned)[nowhere]:
        raise FitError(
            f"no optimum of {name} lies inside what was tried; try values on both sides of the best of {_loose(optima)}"
        )
    return [
        f"the optimum of {name} lies beyond all values that were tried: a guess by the shape of the losses"
        for name in np.array(runs.columns.tuned)[~inside]
    ]


def _turns(runs: Runs, surface: Surface) -> Mask:
    """By tuned hyperparameter: whether on either side of an optimum some run is worse than it by more than noise."""
    u, octaves = runs.x - surface.x[runs.scale], surface.octaves[runs.scale]
    tuned = u.shape[1]
    excess = np.stack([surface.bowl.excess(u * np.eye(tuned)[k], octaves) for k in range(tuned)], axis=1)
    worse = ~np.isfinite(runs.loss)[:, None] | (excess > surface.noise)
    found: Mask = (worse & (u < 0)).any(axis=0) & (worse & (u > 0)).any(axis=0)
    return found


def _loose(optima: Sequence[Optimum]) -> str:
    named = [f"{name_of(one.axes)} ({', '.join(dict.fromkeys(one.status))})" for one in optima]
    return "; ".join(named[:NAMED]) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")


def name_of(axes: Mapping[str, float]) -> str:
    """A scale as text: "width=256,depth=4"."""
    return ",".join(f"{axis}={value:g}" for axis, value in axes.items())


def _optima(runs: Runs, found: Sequence[Found], shapes: Sequence[Found]) -> list[Optimum]:
    own = [one.told.own() for one in found]
    x = np.mean([place for place, _ in own], axis=0)
    se = np.mean([error for _, error in own], axis=0)
    heights = np.mean([one.heights for one in shapes], axis=0)
    bends = np.mean([one.curvature for one in shapes], axis=0)
    guided = np.mean([one.surface.x for one in shapes if one.surface], axis=0)
    optima = []
    for place, axes in enumerate(runs.scales):
        mask = runs.of_scale(place)
        finite = mask & np.isfinite(runs.loss)
        tight = se[place] < LOOSE_OCTAVES
        loss = float(np.exp(heights[place])) if np.isfinite(heights[place]) else float("nan")
        optima.append(
            Optimum(
                axes=axes,
                x=np.where(tight, x[place], guided[place]),
                se=np.where(tight, se[place], np.inf),
                curvature=loss * np.diag(bends[place]),
                loss=loss,
                status=_status(runs, mask, finite, tight),
                tried=np.stack([runs.x[mask].min(axis=0), runs.x[mask].max(axis=0)], axis=1),
                runs=int(mask.sum()),
                diverged=int((mask & ~finite).sum()),
            )
        )
    return optima


def _status(runs: Runs, mask: Mask, finite: Mask, tight: Mask) -> tuple[str, ...]:
    """Whether the best of a scale lies inside what was tried, by tuned hyperparameter."""
    if not finite.any():
        return (TOO_FEW,) * len(tight)
    best = np.flatnonzero(finite)[np.argmin(runs.loss[finite])]
    found = []
    for k, placed in enumerate(tight):
        low, high = runs.x[finite, k].min(), runs.x[finite, k].max()
        if low == high:
            found.append(TOO_FEW)
        elif runs.x[best, k] == low:
            found.append(EDGE_LOW)
        elif runs.x[best, k] == high:
            found.append(BOUNDED if runs.x[mask, k].max() > high else EDGE_HIGH)
        else:
            found.append(BRACKETED if placed else TOO_FEW)
    return tuple(found)


def _exponents(power: Mixture, seen: Seen, tuned: Sequence[str]) -> dict[str, dict[str, Exponent]]:
    ends = [{axis: values[0] for axis, values in seen.values.items()}]
    ends += [{**ends[0], axis: seen.values[axis][-1]} for axis in seen.moving]
    drawn, mean = power.draws(ends), power.mean(ends)
    found: dict[str, dict[str, Exponent]] = {name: {} for name in tuned}
    for place, axis in enumerate(seen.moving, start=1):
        octaves = np.log2(seen.values[axis][-1] / seen.values[axis][0])
        moved = (drawn[:, place] - drawn[:, 0]) / octaves
        for k, name in enumerate(tuned):
            low, high = np.percentile(moved[:, k], INTERVAL)
            value = float((mean[place, k] - mean[0, k]) / octaves)
            found[name][axis] = Exponent(value, float(low), float(high))
    return found


def _assumed(power: Mixture, problem: Problem, columns: Columns) -> list[str]:
    """A warning of the exponents that the runs hardly show."""
    found = _exponents(power, problem.seen, columns.tuned)
    pairs = [
        (name, axis, *known.slope(by, axis))
        for name, by in zip(columns.tuned, problem.tuned, strict=True)
        for axis in problem.seen.moving
    ]
    hardly = [
        f"{name} along {axis} ({mean:g} ± {deviation:g})"
        for name, axis, mean, deviation in pairs
        if found[name][axis].se > ASSUMED * deviation
    ]
    if not hardly:
        return []
    return [f"the runs hardly show an exponent, which is mostly what was assumed before any run: {', '.join(hardly)}"]


def _warnings(optima: Sequence[Optimum], problem: Problem, columns: Columns) -> list[str]:
    notes = []
    for k, name in enumerate(columns.tuned):
        for status in (EDGE_LOW, EDGE_HIGH, BOUNDED, TOO_FEW):
            bad = [name_of(one.axes) for one in optima if one.status[k] == status]
            if bad:
                more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
                notes.append(
                    f"no bracketed optimum of {name} ({status}) at {' '.join(bad[:NAMED])}{more}: counted by what the "
                    "runs show of the common shape"
                )
    seen = problem.seen
    if len(optima) <= 1 + len(seen.moving):
        notes.append(
            "as many scales as a power law has parameters: the scatter about it is assumed, and no other "
            "form of law can be told from it"
        )
    for axis, values in seen.values.items():
        if len(values) == 1:
            notes.append(f"only one value of {axis} was swept: its exponent is not measured")
    return notes


def describe(values: Mapping[str, float]) -> str:
    """A scale as text: "width=256, depth=4"."""
    return ", ".join(f"{axis}={value:g}" if value < 1e6 else f"{axis}={value:.0f}" for axis, value in values.items())


def compact(value: float) -> str:
    """A size as it is short to read: 64, 214.7M, 20B."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:g}"


def brief(values: Mapping[str, float]) -> str:
    """A scale as it is short to read: "params=214.7M, tokens=4B"."""
    return ", ".join(f"{axis}={compact(value)}" for axis, value in values.items())
