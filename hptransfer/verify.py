"""Verification: train a scale around the law's prediction, and measure what the prediction loses.

Its trials carry the purpose "verify" and never enter the fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from hptransfer.analysis.optima.loss_curve import LossCurve
from hptransfer.analysis.pipeline import analyze_run
from hptransfer.core.bracketing import canonical
from hptransfer.core.errors import FitError
from hptransfer.core.io import write_json
from hptransfer.core.records import DIVERGED, DONE, VERIFY, Number, Scale, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.driver import DriverSummary
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import MIN_LINE_POINTS, Point, one_at_a_time
from hptransfer.planning.trial_set import TrialSet, search_bounds
from hptransfer.session.session import Session

# Points of the curve that the best loss is read off, the prediction in their middle.
POINTS = 5
# Neighbours lie at the sweep's own spacing, but no farther apart than this.
MAX_SPACING_OCTAVES = 1.0


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a scale's own sweep says of the prediction. Losses in nats.

    Attributes:
        regret_nats, regret_percent: loss at the prediction minus the least loss of a curve through
            the scale's own sweep, absolutely and in percent of that least loss.
        error_octaves: log2 of the prediction over the scale's own best value.
        unmoved: the same regret for the smallest scale's optimum, kept as it is; its regret is None
            if training diverged there.
        points: what was trained.
    """

    scale: Mapping[str, Number]
    predicted: Mapping[str, float]
    best: Mapping[str, float]
    regret_nats: float
    regret_percent: float
    error_octaves: Mapping[str, float]
    unmoved: Mapping[str, float | None]
    points: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for the terminal."""
        names = ", ".join(self.predicted)
        lines = [f"verified at {Scale(self.scale).key}, trained at {len(self.points)} settings of {names}:"]
        lines += [
            f"  predicted {name} {short(value)}, its own best {short(self.best[name])} "
            f"({self.error_octaves[name]:+.2f} octaves)"
            for name, value in self.predicted.items()
        ]
        unmoved = ", ".join(short(self.unmoved[name] or 0) for name in self.predicted)
        lines += [
            f"  regret of the prediction {self.regret_nats:.4f} nats ({self.regret_percent:.2f}% of "
            f"{self.best['loss']:.4f})",
            f"  regret of the smallest scale's optimum unmoved ({unmoved}): {self._unmoved()}",
        ]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])

    def _unmoved(self) -> str:
        nats, percent = self.unmoved["regret_nats"], self.unmoved["regret_percent"]
        return "diverged, or not tried" if nats is None or percent is None else f"{nats:.4f} nats ({percent:.2f}%)"


def verify(open_session: Session, scale: Scale) -> tuple[DriverSummary, Verification]:
    """Trains a scale at the predicted value and around it until its optimum is bracketed.

    Writes verification.json (or verification-<scale>.json if the scale is not the target) and the
    report anew.

    Raises:
        FitError: there is no prediction, or too few trials finished to say anything.
    """
    plan, folder = open_session.plan, open_session.folder
    analysis = analyze_run(folder)
    predicted = analysis.predict(scale.axes)
    unmoved = analysis.smallest_optimum()
    settings = settings_around(plan, predicted, unmoved)
    columns = zip(*settings, strict=True)
    extends = [replace(one, low=min(own), high=max(own)) for one, own in zip(search_bounds(plan), columns, strict=True)]
    campaign = TrialSet(VERIFY, {scale: settings}, len(settings), extends)
    report = open_session.train(campaign)
    verification = measure(folder, scale, predicted, unmoved)
    verification.warnings.extend(f"not bracketed: {line}" for line in report.unbracketed)
    path = folder.verification if scale == plan.target else folder.verification_of(scale)
    write_json(path, asdict(verification))
    open_session.tracker.summarize(
        {"verified_regret_nats": verification.regret_nats, "verified_regret_percent": verification.regret_percent},
        [_again(folder), path],
        f"{analysis.summary()}\n{verification.summary()}",
    )
    return report, verification


def _again(folder: RunFolder) -> Any:
    analyze_run(folder)
    return folder.report


def settings_around(plan: Plan, predicted: Mapping[str, float], unmoved: Mapping[str, float]) -> list[Point]:
    """The prediction, two values on either side along each hyperparameter, and the unmoved optimum if it is farther."""
    lines = []
    for name in plan.tuned:
        first, second, *_ = plan.grids[name]
        spacing = min(abs(math.log2(second / first)), MAX_SPACING_OCTAVES)
        steps = range(-(POINTS // 2), POINTS // 2 + 1)
        largest = plan.config.space[name].largest
        lines.append(sorted({canonical(min(predicted[name] * 2.0 ** (spacing * step), largest)) for step in steps}))
    here = tuple(canonical(predicted[name]) for name in plan.tuned)
    settings = one_at_a_time(lines, here)
    there = tuple(canonical(unmoved[name]) for name in plan.tuned)
    if len(plan.tuned) > 1 or not lines[0][0] <= there[0] <= lines[0][-1]:
        settings.append(there)
    return sorted(set(settings))


def measure(
    folder: RunFolder, scale: Scale, predicted: Mapping[str, float], unmoved: Mapping[str, float]
) -> Verification:
    """Regret and error at a scale from its finished verification trials.

    Of several hyperparameters each has a curve through the prediction, the others held there, and the best loss is
    what all of their minima together gain: interactions are left out.

    Raises:
        FitError: fewer than three values of a hyperparameter finished, or the prediction itself diverged.
    """
    points = _points(folder, scale, tuple(predicted))
    losses = {tuple(point[name] for name in predicted): point["loss"] for point in points if point["loss"] is not None}
    here = tuple(canonical(value) for value in predicted.values())
    curves = [_curve(losses, here, k) for k in range(len(here))]
    if here not in losses or any(curve is None for curve in curves):
        raise FitError(
            f"verification at {scale.key}: only {len(losses)} of {len(points)} settings trained without diverging; "
            "look at `hptransfer status`, then run verify again"
        )
    minima = [curve.minimum() for curve in curves if curve is not None]
    best_loss = losses[here] - sum(losses[here] - loss for _, loss in minima)
    regret = losses[here] - best_loss
    best = {name: 2.0**x for name, (x, _) in zip(predicted, minima, strict=True)}
    errors = {name: math.log2(predicted[name] / best[name]) for name in predicted}
    return Verification(
        scale=dict(scale.axes),
        predicted=dict(predicted),
        best={**best, "loss": best_loss},
        regret_nats=regret,
        regret_percent=100 * regret / best_loss,
        error_octaves=errors,
        unmoved={**unmoved, **_unmoved_regret(curves, losses, unmoved, best_loss)},
        points=points,
    )


def _curve(losses: Mapping[Point, float], here: Point, k: int) -> LossCurve | None:
    """The curve along one hyperparameter through a setting; None through fewer than three points."""
    others = here[:k] + here[k + 1 :]
    line = {setting[k]: loss for setting, loss in losses.items() if setting[:k] + setting[k + 1 :] == others}
    return LossCurve(list(line), list(line.values())) if len(line) >= MIN_LINE_POINTS else None


def _unmoved_regret(
    curves: Sequence[LossCurve | None], losses: Mapping[Point, float], unmoved: Mapping[str, float], best_loss: float
) -> dict[str, float | None]:
    """Of the unmoved setting, as it was trained, or as the one curve has it; None if it diverged."""
    there = tuple(canonical(value) for value in unmoved.values())
    loss = losses.get(there)
    if loss is None and len(there) == 1 and curves[0] is not None:
        x = math.log2(there[0])
        loss = curves[0].at(x) if curves[0].x[0] <= x <= curves[0].x[-1] else None
    if loss is None:
        return {"regret_nats": None, "regret_percent": None}
    return {"regret_nats": loss - best_loss, "regret_percent": 100 * (loss - best_loss) / best_loss}


def _points(folder: RunFolder, scale: Scale, tuned: tuple[str, ...]) -> list[dict[str, Any]]:
    """Mean loss over seeds of every setting that was trained; None where a seed diverged."""
    losses: dict[Point, list[float | None]] = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        if trial.purpose == VERIFY and trial.scale == scale and outcome and outcome.state in (DONE, DIVERGED):
            losses.setdefault(tuple(trial.tuned[name] for name in tuned), []).append(outcome.loss)
    points = []
    for setting, repeats in sorted(losses.items()):
        finite = [loss for loss in repeats if loss is not None]
        whole = len(finite) == len(repeats)
        values: dict[str, Any] = dict(zip(tuned, setting, strict=True))
        points.append({**values, "loss": fmean(finite) if whole else None, "state": DONE if whole else DIVERGED})
    return points
