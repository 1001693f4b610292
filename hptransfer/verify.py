"""Verification: training of a scale around its prediction, and the prediction's regret.

Its trials have the purpose "verify" and never enter the fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hptransfer.analysis.optima.loss_curve import LossCurve
from hptransfer.analysis.pipeline import analyze_run
from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import FitError
from hptransfer.core.io import write_json
from hptransfer.core.records import DIVERGED, DONE, LOSS, VERIFY, Number, Objective, Scale, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.summary import DriverSummary
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import MIN_LINE_POINTS, Point, one_at_a_time
from hptransfer.planning.trial_set import TrialSet, search_bounds
from hptransfer.session.session import Session

# Points of the curve from which the best loss is read, with the prediction in the middle.
CURVE_POINTS = 5
# Neighbours have the sweep's own spacing, but at most this one.
MAX_SPACING_OCTAVES = 1.0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Regret of a prediction, in the metric's unit, and error in octaves.

    Attributes:
        scale: values of the axes.
        predicted: predicted value of every tuned hyperparameter.
        best: the scale's own best values, and the metric there under `loss`.
        regret_nats, regret_percent: loss at the prediction minus the least loss of a curve through the scale's own
            sweep, absolutely and in percent of that least loss; no percentage where differences are fitted.
        error_octaves: log2 of the prediction over the scale's own best value.
        untransferred: values of the smallest scale's optimum, and their regret at this scale; the regret is None if
            training diverged there.
        points: the trained points, with loss and state.
        unit: of the metric; blank for none.
    """

    scale: Mapping[str, Number]
    predicted: Mapping[str, float]
    best: Mapping[str, float]
    regret_nats: float
    regret_percent: float | None
    error_octaves: Mapping[str, float]
    untransferred: Mapping[str, float | None]
    points: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    unit: str = ""

    def summary(self) -> str:
        """Return a few lines for the terminal."""
        names = ", ".join(self.predicted)
        lines = [f"verified at {Scale(self.scale).key}, trained at {len(self.points)} points of {names}:"]
        lines += [
            f"  predicted {name} {short(value)}, its own best {short(self.best[name])} "
            f"({self.error_octaves[name]:+.2f} octaves)"
            for name, value in self.predicted.items()
        ]
        untransferred = ", ".join(short(self.untransferred[name] or 0) for name in self.predicted)
        lines += [
            f"  regret of the prediction {self._regret(self.regret_nats)} ("
            + ("" if self.regret_percent is None else f"{self.regret_percent:.2f}% ")
            + f"of {self.best['loss']:.4f})",
            f"  regret of reusing the smallest scale's optimum ({untransferred}): {self._untransferred_regret()}",
        ]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])

    def _untransferred_regret(self) -> str:
        regret, percent = self.untransferred["regret_nats"], self.untransferred["regret_percent"]
        if regret is None:
            return "diverged, or not tried"
        return self._regret(regret) + ("" if percent is None else f" ({percent:.2f}%)")

    def _regret(self, regret: float) -> str:
        return f"{regret:.4f} {self.unit}".strip()


def verify(open_session: Session, scale: Scale) -> tuple[DriverSummary, Verification]:
    """Train a scale around its prediction until its optimum is bracketed.

    Writes verification.json, or verification-<scale>.json if the scale is not the target, and the report.

    Raises:
        FitError: there is no prediction, or too few trials have finished.
    """
    plan, folder = open_session.plan, open_session.folder
    analysis = analyze_run(folder)
    predicted = analysis.predict(scale.axes)
    untransferred = analysis.smallest_optimum()
    points = points_around(plan, predicted, untransferred)
    columns = zip(*points, strict=True)
    bounds = zip(search_bounds(plan), columns, strict=True)
    extends = [replace(bound, low=min(values), high=max(values)) for bound, values in bounds]
    driver_summary = open_session.train(TrialSet(VERIFY, {scale: points}, len(points), extends))
    verification = measure_regret(folder, scale, predicted, untransferred, plan.objective)
    verification.warnings.extend(f"not bracketed: {line}" for line in driver_summary.unbracketed)
    path = folder.verification if scale == plan.target else folder.verification_of(scale)
    write_json(path, asdict(verification))
    open_session.tracker.summarize(
        {
            "verified_regret_nats": verification.regret_nats,
            **({} if (percent := verification.regret_percent) is None else {"verified_regret_percent": percent}),
        },
        [_new_report(folder), path],
        f"{analysis.summary()}\n{verification.summary()}",
    )
    return driver_summary, verification


def _new_report(folder: RunFolder) -> Path:
    analyze_run(folder)
    return folder.report


def points_around(plan: Plan, predicted: Mapping[str, float], untransferred: Mapping[str, float]) -> list[Point]:
    """Return the points to train for a verification.

    They are the prediction, two values on either side along each hyperparameter, and the smallest scale's optimum
    unless it lies between these values.
    """
    axis_values = []
    for name in plan.tuned:
        first, second, *_ = plan.grids[name]
        spacing = min(abs(math.log2(second / first)), MAX_SPACING_OCTAVES)
        steps = range(-(CURVE_POINTS // 2), CURVE_POINTS // 2 + 1)
        largest = plan.config.space[name].largest
        axis_values.append(
            sorted({canonical(min(predicted[name] * 2.0 ** (spacing * step), largest)) for step in steps})
        )
    center = tuple(canonical(predicted[name]) for name in plan.tuned)
    points = one_at_a_time(axis_values, center)
    reused = tuple(canonical(untransferred[name]) for name in plan.tuned)
    if len(plan.tuned) > 1 or not axis_values[0][0] <= reused[0] <= axis_values[0][-1]:
        points.append(reused)
    return sorted(set(points))


def measure_regret(
    folder: RunFolder,
    scale: Scale,
    predicted: Mapping[str, float],
    untransferred: Mapping[str, float],
    objective: Objective = LOSS,
) -> Verification:
    """Measure regret and error at a scale from its finished verification trials.

    Each hyperparameter has a curve through the prediction, with the others fixed. The best loss is the loss at the
    prediction minus the gains of all curves' minima: interactions are ignored.

    Raises:
        FitError: fewer than three values of a hyperparameter finished, or the prediction itself diverged.
    """
    points = _trained_points(folder, scale, tuple(predicted))
    losses = {
        tuple(point[name] for name in predicted): objective.minimized(point["loss"])
        for point in points
        if point["loss"] is not None
    }
    center = tuple(canonical(value) for value in predicted.values())
    curves = [_curve_along(losses, center, k) for k in range(len(center))]
    if center not in losses or any(curve is None for curve in curves):
        raise FitError(
            f"verification at {scale.key}: only {len(losses)} of {len(points)} points trained without diverging; "
            "look at `hptransfer status`, then run verify again"
        )
    minima = [curve.minimum() for curve in curves if curve is not None]
    best_loss = losses[center] - sum(losses[center] - loss for _, loss in minima)
    regret = losses[center] - best_loss
    best = {name: 2.0**x for name, (x, _) in zip(predicted, minima, strict=True)}
    errors = {name: math.log2(predicted[name] / best[name]) for name in predicted}
    return Verification(
        scale=dict(scale.axes),
        predicted=dict(predicted),
        best={**best, "loss": objective.shown(best_loss)},
        regret_nats=regret,
        regret_percent=_percent(regret, best_loss),
        error_octaves=errors,
        untransferred={**untransferred, **_untransferred_regret(curves, losses, untransferred, best_loss)},
        points=points,
        unit=objective.unit,
    )


def _curve_along(losses: Mapping[Point, float], center: Point, k: int) -> LossCurve | None:
    """Return the curve along hyperparameter k; None below three points."""
    other_values = center[:k] + center[k + 1 :]
    losses_along = {point[k]: loss for point, loss in losses.items() if point[:k] + point[k + 1 :] == other_values}
    return LossCurve(list(losses_along), list(losses_along.values())) if len(losses_along) >= MIN_LINE_POINTS else None


def _untransferred_regret(
    curves: Sequence[LossCurve | None],
    losses: Mapping[Point, float],
    untransferred: Mapping[str, float],
    best_loss: float,
) -> dict[str, float | None]:
    """Return the regret of reusing the smallest scale's optimum.

    Its loss is the trained one, or the curve's if only one hyperparameter is tuned. The regret is None if training
    diverged there.
    """
    reused = tuple(canonical(value) for value in untransferred.values())
    loss = losses.get(reused)
    if loss is None and len(reused) == 1 and curves[0] is not None:
        x = math.log2(reused[0])
        loss = curves[0].at(x) if curves[0].x[0] <= x <= curves[0].x[-1] else None
    if loss is None:
        return {"regret_nats": None, "regret_percent": None}
    return {"regret_nats": loss - best_loss, "regret_percent": _percent(loss - best_loss, best_loss)}


def _percent(regret: float, best_loss: float) -> float | None:
    """Return a regret in percent of a loss above 0, None otherwise."""
    return 100 * regret / best_loss if best_loss > 0 else None


def _trained_points(folder: RunFolder, scale: Scale, tuned: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return every trained point with its mean loss over seeds.

    The loss is None if a seed diverged.
    """
    losses: dict[Point, list[float | None]] = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        if trial.purpose == VERIFY and trial.scale == scale and outcome and outcome.state in (DONE, DIVERGED):
            losses.setdefault(tuple(trial.tuned[name] for name in tuned), []).append(outcome.loss)
    points = []
    for point, repeats in sorted(losses.items()):
        finite = [loss for loss in repeats if loss is not None]
        all_finite = len(finite) == len(repeats)
        state = DONE if all_finite else DIVERGED
        values: dict[str, Any] = dict(zip(tuned, point, strict=True))
        points.append({**values, "loss": fmean(finite) if all_finite else None, "state": state})
    return points
