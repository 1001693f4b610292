"""Verification: train a scale around the law's prediction, and measure what the prediction loses.

Its trials carry the purpose "verify" and never enter the fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from hptransfer.analysis.curve import Curve
from hptransfer.analysis.pipeline import analyze_run
from hptransfer.core.bracket import tidy
from hptransfer.core.errors import FitError
from hptransfer.core.files import RunFolder, write_json
from hptransfer.core.records import DIVERGED, DONE, VERIFY, Number, Scale, short
from hptransfer.sweep.driver import Campaign, Report
from hptransfer.sweep.plan import Plan
from hptransfer.sweep.session import Session

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
        lines = [f"verified at {Scale(self.scale).name}, trained at {len(self.points)} settings of {names}:"]
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


def verify(open_session: Session, scale: Scale) -> tuple[Report, Verification]:
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
    campaign = Campaign(
        purpose=VERIFY,
        scales=(scale,),
        values=values_around(plan, predicted, unmoved),
        points=POINTS,
        extend=plan.config.space[plan.tuned].extend,
    )
    report = open_session.train(campaign)
    verification = measure(folder, plan.tuned, scale, predicted, unmoved)
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


def values_around(plan: Plan, predicted: float, unmoved: float) -> tuple[float, ...]:
    """The prediction, two values on either side, and the unmoved optimum if it lies outside them."""
    spacing = min(abs(math.log2(plan.values[1] / plan.values[0])), MAX_SPACING_OCTAVES)
    largest = plan.config.space[plan.tuned].largest
    steps = range(-(POINTS // 2), POINTS // 2 + 1)
    values = [tidy(min(predicted * 2.0 ** (spacing * step), largest)) for step in steps]
    if not values[0] <= unmoved <= values[-1]:
        values.append(tidy(unmoved))
    return tuple(sorted(set(values)))


def measure(folder: RunFolder, tuned: str, scale: Scale, predicted: float, unmoved: float) -> Verification:
    """Regret and error at a scale from its finished verification trials.

    Raises:
        FitError: fewer than three values finished, or the prediction itself diverged.
    """
    points = _points(folder, tuned, scale)
    losses = {point[tuned]: point["loss"] for point in points if point["loss"] is not None}
    if len(losses) < 3 or tidy(predicted) not in losses:
        raise FitError(
            f"verification at {scale.name}: only {len(losses)} of {len(points)} values trained without diverging; "
            "look at `hptransfer status`, then run verify again"
        )
    curve = Curve(list(losses), list(losses.values()))
    best_x, best_loss = curve.minimum()
    regret = losses[tidy(predicted)] - best_loss
    return Verification(
        scale=dict(scale.axes),
        predicted={tuned: predicted},
        best={tuned: 2.0**best_x, "loss": best_loss},
        regret_nats=regret,
        regret_percent=100 * regret / best_loss,
        error_octaves={tuned: math.log2(predicted) - best_x},
        unmoved={tuned: unmoved, **_unmoved_regret(curve, losses, unmoved, best_loss)},
        points=points,
    )


def _unmoved_regret(
    curve: Curve, losses: Mapping[float, float], unmoved: float, best_loss: float
) -> dict[str, float | None]:
    if not min(losses) <= tidy(unmoved) <= max(losses):
        return {"regret_nats": None, "regret_percent": None}
    nats = curve.at(math.log2(tidy(unmoved))) - best_loss
    return {"regret_nats": nats, "regret_percent": 100 * nats / best_loss}


def _points(folder: RunFolder, tuned: str, scale: Scale) -> list[dict[str, Any]]:
    """Mean loss over seeds of every value that was trained; None where a seed diverged."""
    losses: dict[float, list[float | None]] = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        if trial.purpose == VERIFY and trial.scale == scale and outcome and outcome.state in (DONE, DIVERGED):
            losses.setdefault(trial.tuned[tuned], []).append(outcome.loss)
    points = []
    for value, repeats in sorted(losses.items()):
        finite = [loss for loss in repeats if loss is not None]
        whole = len(finite) == len(repeats)
        points.append({tuned: value, "loss": fmean(finite) if whole else None, "state": DONE if whole else DIVERGED})
    return points
