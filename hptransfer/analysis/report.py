"""The page: one self-contained HTML file with the answer first; no script, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader

from hptransfer.analysis import plots
from hptransfer.analysis.fit import TOLERANCE, UNDECIDED, Fit, HeldOut, describe
from hptransfer.analysis.optimum import Optimum
from hptransfer.analysis.predict import predicted_settings, resolved_groups
from hptransfer.core.records import DIVERGED, DONE, FAILED, short

DASH = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Context:
    """What only a run knows, for the page; a table from elsewhere has none of it.

    Attributes:
        target: content of target.json.
        verification: content of verification.json.
        states: trials of the sweep by state.
        failed: failed trials by scale name.
        flops: training FLOPs that the sweep's finished trials cost.
        warnings: to be shown before those of the fit.
    """

    title: str
    target: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    flops: float = 0.0
    warnings: Sequence[str] = ()


def render(fit: Fit, held_out: HeldOut, prediction: Mapping[str, Any], warnings: list[str], context: Context) -> str:
    """The page as text.

    Args:
        prediction: a row of predict.predict_table.
    """
    tuned = fit.columns.tuned_one
    scale = {axis: float(prediction[axis]) for axis in fit.columns.scales}
    verification = context.verification
    verified_x = math.log2(verification["best"][tuned]) if verification else None
    environment = Environment(loader=PackageLoader("hptransfer.analysis", "."), autoescape=True)
    return environment.get_template("report.html.j2").render(
        title=context.title,
        tuned=tuned,
        target_name=describe(scale),
        value=short(prediction[tuned]),
        low=short(prediction[f"{tuned}_low"]),
        high=short(prediction[f"{tuned}_high"]),
        loss=f"{prediction['loss']:.3f}",
        loss_low=f"{prediction['loss_low']:.3f}",
        loss_high=f"{prediction['loss_high']:.3f}",
        distance_note=_distance_note(prediction["distance"]),
        warnings=warnings,
        verified=_verified(verification, tuned) if verification else None,
        verification_panel=plots.verification_panel(verification, tuned) if verification else None,
        law_panels=plots.law_panels(fit, scale, verified_x),
        curve_panels=plots.curve_panels(fit),
        tolerance=TOLERANCE,
        exponents=_exponents(fit, scale, prediction["loss"]),
        undecided=any(exponent.verdict == UNDECIDED for exponent in fit.exponents.values()),
        scatter=f"{fit.law.scatter:.2f}",
        noise=f"{fit.noise:.4f}",
        held_out=held_out_sentence(held_out),
        scales=[_scale_row(fit, one, context) for one in fit.optima],
        **_groups(context, {tuned: prediction[tuned]}),
        facts=_facts(context),
    )


def _distance_note(distance: float) -> str:
    if distance <= 0:
        return "The target lies inside the swept range: this is interpolation."
    return f"The target lies {distance:.1f} octaves beyond the largest scale that was swept."


def _verified(verification: Mapping[str, Any], tuned: str) -> dict[str, str]:
    unmoved = verification["unmoved"]
    return {
        "scale": describe(verification["scale"]),
        "regret": f"{verification['regret_percent']:.2f}%",
        "error": f"{verification['error_octaves'][tuned]:+.2f} octaves",
        "best": short(verification["best"][tuned]),
        "unmoved": "diverged" if unmoved["regret_percent"] is None else f"{unmoved['regret_percent']:.2f}%",
        "unmoved_value": short(unmoved[tuned]),
    }


def _exponents(fit: Fit, target: Mapping[str, float], loss: float) -> list[dict[str, str]]:
    rows = []
    for axis, exponent in fit.exponents.items():
        cost = unmoved_cost(fit, axis, target)
        rows.append(
            {
                "axis": axis,
                "value": f"{exponent.value:+.2f}",
                "low": f"{exponent.low:+.2f}",
                "high": f"{exponent.high:+.2f}",
                "verdict": exponent.verdict,
                "cost": f"{cost:.4f}",
                "percent": f"{100 * cost / loss:.2f}%",
            }
        )
    return rows


def unmoved_cost(fit: Fit, axis: str, target: Mapping[str, float]) -> float:
    """Nats lost if one axis grows from its smallest value to the target's and the optimum is not moved."""
    return fit.shift_cost(fit.exponents[axis].value * math.log2(target[axis] / fit.law.design.reference[axis]))


def held_out_sentence(held_out: HeldOut) -> str:
    """What leaving out the largest scale showed, in words."""
    name = describe(held_out.scale)
    if held_out.error_octaves is None:
        return f"The largest scale ({name}) could not be held out: {held_out.reason}."
    regret = (
        "outside the values tried there"
        if held_out.regret_nats is None
        else f"{held_out.regret_nats:.4f} nats ({held_out.regret_percent:.2f}%) of regret"
    )
    inside = "holds" if held_out.covered else "does not hold"
    return (
        f"Predicted from all other scales, the optimum of the largest one ({name}) is off by "
        f"{held_out.error_octaves:+.2f} octaves, {regret}; the 90% interval of that prediction {inside} it."
    )


def _scale_row(fit: Fit, one: Optimum, context: Context) -> dict[str, str]:
    cost = fit.unmoved_cost(one) if one.bracketed else None
    sign = "" if one.bracketed else ("≤ " if one.status == "edge, low" else "≥ ")
    return {
        "name": describe(one.cell.axes),
        "runs": str(one.cell.runs),
        "diverged": str(one.cell.diverged or DASH),
        "failed": str(context.failed.get(describe(one.cell.axes), DASH)),
        "best": DASH if one.x != one.x else f"{sign}{short(2.0**one.x)}",
        "se": f"{one.se:.2f}" if one.bracketed else DASH,
        "loss": DASH if one.loss != one.loss else f"{one.loss:.4f}",
        "curvature": f"{one.curvature:.3f}" if one.bracketed else DASH,
        "unmoved": DASH if cost is None else f"{cost:.4f}",
        "status": one.status,
    }


def _groups(context: Context, predicted: Mapping[str, float]) -> dict[str, Any]:
    if not context.target or not context.target.get("groups"):
        return {"groups": None, "group_keys": [], "parameterization": ""}
    groups = resolved_groups(context.target, predicted_settings(context.target, predicted))
    keys = list(next(iter(groups.values())))
    shown = {role: {key: short(float(value)) for key, value in numbers.items()} for role, numbers in groups.items()}
    return {"groups": shown, "group_keys": keys, "parameterization": context.target.get("parameterization")}


def _facts(context: Context) -> list[tuple[str, str]]:
    target = context.target
    if not target:
        return []
    states = [f"{count} {state}" for state, count in context.states.items() if count]
    order = {state: rank for rank, state in enumerate((DONE, DIVERGED, FAILED))}
    states.sort(key=lambda text: order.get(text.split()[1], 9))
    of_target = []
    if target["flops"]:
        of_target = [
            ("of the target", f"{target['flops']:.3g} ({target['params']:,} parameters)"),
            ("share", f"{context.flops / target['flops']:.1%} of the target's own training"),
        ]
    return [
        ("sweep", target["name"]),
        ("trials", ", ".join(states)),
        ("training FLOPs of the sweep", f"{context.flops:.3g}"),
        *of_target,
        *([("parameterization", target["parameterization"])] if target["parameterization"] else []),
        ("script fingerprint" if "command" in target else "data fingerprint", target["fingerprint"]),
    ]
