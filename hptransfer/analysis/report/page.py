"""Page of an analysis: one self-contained HTML file, without scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from hptransfer.analysis.laws.exponents import TRANSFER_TOLERANCE, UNDECIDED, has_verdict
from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.optima.scale_optima import BOUNDED, EDGE_HIGH, EDGE_LOW, Optimum
from hptransfer.analysis.predict.findings import Findings, extrapolation_sentence, held_out_sentence, untransferred_cost
from hptransfer.analysis.predict.next_runs import NextRun
from hptransfer.analysis.predict.published_laws import published_laws_apply, published_predictions
from hptransfer.analysis.predict.validation import HeldOut, regret_per_octave
from hptransfer.analysis.report import figures as plots
from hptransfer.analysis.report.comparison import ComparedSweep, compare_sweeps
from hptransfer.analysis.report.target_groups import predicted_settings, resolved_groups
from hptransfer.analysis.tables.axis_roles import kind
from hptransfer.analysis.tables.scale_names import format_scale
from hptransfer.core.records import DIVERGED, DONE, FAILED, PRUNED, Scale, short

# Rows of the table of next runs.
SHOWN_NEXT = 8
DASH = "\N{EN DASH}"
# Rows of the page's tables of targets and scales; the written files have all.
TARGETS, ROWS = 40, 60


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Information of a run that a table of another source lacks.

    Attributes:
        target: content of target.json.
        verification: content of verification.json.
        states: trials of the sweep by state.
        failed: failed trials by `Scale.key`.
        uncounted: number of rows that are not used, by their state.
        flops: training FLOPs of the sweep's finished trials.
        warnings: to show before those of the fit.
    """

    title: str
    target: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    flops: float = 0.0
    warnings: Sequence[str] = ()


def render(analysis: Findings, context: RunContext, against: ComparedSweep | None = None) -> str:
    """Return the page as text.

    Args:
        against: another sweep to compare with this one.
    """
    fit, row = analysis.fit, analysis.predictions.iloc[0]
    scale = {axis: float(row[axis]) for axis in fit.columns.scales}
    exponents = _exponents(fit, scale, float(row["loss"]))
    verification = context.verification
    environment = Environment(loader=PackageLoader("hptransfer.analysis.report", "."), autoescape=True)
    return environment.get_template("page.html.j2").render(
        title=context.title,
        tuned=", ".join(fit.tuned),
        target_name=fit.runs.format_scale(scale),
        answers=[_answer(row, name) for name in fit.tuned],
        loss=_answer(row, "loss"),
        targets=_targets(analysis),
        distance_note=extrapolation_sentence(fit, scale),
        warnings=analysis.warnings,
        verified=_verified(verification) if verification else None,
        verification_panels=_drawn(plots.verification_panels(verification)) if verification else [],
        law_panels=_drawn(plots.law_panels(fit, scale, verification["best"] if verification else None)),
        curve_panels=_drawn(plots.curve_panels(fit)),
        heat_panels=_drawn(plots.heat_panels(fit)),
        residual_panels=_drawn(plots.residual_panels(fit)),
        maps_note=f" The {plots.MAPS} largest of {len(fit.optima)} scales." if len(fit.optima) > plots.MAPS else "",
        ahead_panels=_drawn(plots.ahead_panels(analysis.ahead)),
        tolerance=TRANSFER_TOLERANCE,
        exponents=exponents,
        undecided=any(row["verdict"] == UNDECIDED for row in exponents),
        scatter=", ".join(f"{name} {value:.2f}" for name, value in zip(fit.tuned, fit.mixture.scatter(), strict=True)),
        expected=fit.expected,
        laws=[(name, f"{share:.0%}") for name, share in fit.mixture.shares().items()],
        estimator=fit.estimator,
        noise=f"{fit.noise:.4f}",
        next_runs=[_next(fit, proposal) for proposal in analysis.next_runs[:SHOWN_NEXT]],
        held_out=held_out_sentence(fit, analysis.left_out),
        left_out=[_left_out(fit, held) for held in analysis.left_out[-ROWS:]],
        per_octave=regret_per_octave(analysis.ahead),
        scales=[_scale_row(fit, optimum, context) for optimum in fit.optima[-ROWS:]],
        published_predictions=_references(fit, scale),
        comparison=compare_sweeps(analysis, against.analysis) if against else None,
        against=against,
        **_groups(context, {name: float(row[name]) for name in fit.tuned}),
        cut=max(0, len(fit.optima) - ROWS),
        of_run=context.target is not None,
        facts=_facts(context),
    )


def _drawn(panels: Sequence[plots.Panel]) -> list[str]:
    return [plots.svg(panel) for panel in panels]


def _answer(row: pd.Series[Any], name: str) -> dict[str, str]:
    keys = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {"name": name, **{key: short(float(row[column])) for key, column in keys.items()}}


def _targets(analysis: Findings) -> list[dict[str, Any]]:
    """Return the rows of all targets, if there are several."""
    names = [*analysis.fit.tuned, "loss"]
    if len(analysis.predictions) < 2:
        return []
    shown = analysis.predictions.head(TARGETS)
    scales = [{axis: float(row[axis]) for axis in analysis.fit.columns.scales} for _, row in shown.iterrows()]
    return [
        {
            "name": format_scale(scale, scales),
            "answers": [_answer(row, name) for name in names],
            "beyond": f"{row['extrapolation_octaves']:.1f}",
        }
        for scale, (_, row) in zip(scales, shown.iterrows(), strict=True)
    ]


def _verified(verification: Mapping[str, Any]) -> dict[str, str]:
    reused, errors = plots.untransferred_of(verification), verification["error_octaves"]
    names = list(errors)
    return {
        "scale": format_scale(verification["scale"]),
        "regret": f"{verification['regret_percent']:.2f}%",
        "error": ", ".join(f"{error:+.2f} octaves" for error in errors.values()),
        "best": ", ".join(short(verification["best"][name]) for name in names),
        "untransferred": "diverged" if reused["regret_percent"] is None else f"{reused['regret_percent']:.2f}%",
        "untransferred_value": ", ".join(short(reused[name]) for name in names),
    }


def _exponents(fit: Fit, target: Mapping[str, float], loss: float) -> list[dict[str, str]]:
    rows = []
    for k, name in enumerate(fit.tuned):
        for axis, exponent in fit.exponents[name].items():
            cost = untransferred_cost(fit, k, axis, target, loss)
            rows.append(
                {
                    "tuned": name,
                    "axis": axis,
                    "value": f"{exponent.value:+.2f}",
                    "low": f"{exponent.low:+.2f}",
                    "high": f"{exponent.high:+.2f}",
                    "verdict": exponent.verdict if has_verdict(name, axis) else DASH,
                    "cost": f"{cost:.4f}",
                    "percent": f"{100 * cost / loss:.2f}%",
                }
            )
    return rows


def _next(fit: Fit, proposal: NextRun) -> dict[str, str]:
    settings = [", ".join(short(float(f"{2.0**x:.4g}")) for x in setting) for setting in proposal.settings]
    return {
        "scale": fit.runs.format_scale(proposal.axes),
        "settings": "; ".join(settings),
        "cost": f"{proposal.flops:.3g}",
        "narrowing": f"{proposal.narrowing:.1%}",
    }


def _left_out(fit: Fit, held: HeldOut) -> dict[str, str]:
    return {
        "name": fit.runs.format_scale(held.axes),
        "error": ", ".join(f"{error:+.2f}" for error in held.error),
        "covered": "yes" if all(held.covered) else "no",
        "regret": f"{held.regret_percent:.3f}%",
    }


def _references(fit: Fit, scale: Mapping[str, float]) -> list[dict[str, str]]:
    """Return the predictions of published laws, if the columns have their inputs."""
    if not published_laws_apply(fit.columns):
        return []
    rows = [_fit_row(fit, scale)]
    for name, answers in published_predictions(fit.columns, scale, fit.predict_loss(scale)[0]).items():
        shown = {key: short(float(f"{value:.4g}")) for key, value in answers.items()}
        rows.append({"name": name, "rate": shown.get("learning_rate", DASH), "batch": shown.get("batch_tokens", DASH)})
    return rows


def _fit_row(fit: Fit, scale: Mapping[str, float]) -> dict[str, str]:
    """Return this fit's prediction, its batch size in the table's unit."""
    answers = {kind(name): short(float(2.0**x)) for name, (x, _, _) in zip(fit.tuned, fit.predict(scale), strict=True)}
    batch = f"{answers['batch']} as in the table" if "batch" in answers else DASH
    return {"name": "this fit", "rate": answers.get("rate", DASH), "batch": batch}


def _scale_row(fit: Fit, optimum: Optimum, context: RunContext) -> dict[str, str]:
    signs = [
        "\u2264 " if status == EDGE_LOW else "\u2265 " if status in (EDGE_HIGH, BOUNDED) else ""
        for status in optimum.status
    ]
    values = [f"{sign}{short(float(2.0**x))}" for sign, x in zip(signs, optimum.x, strict=True)]
    return {
        "name": fit.runs.format_scale(optimum.axes),
        "runs": str(optimum.runs),
        "diverged": str(optimum.diverged or DASH),
        "failed": str(context.failed.get(Scale(optimum.axes).key, DASH)),
        "best": ", ".join(values),
        "se": ", ".join(f"{error:.2f}" if math.isfinite(error) else DASH for error in optimum.se),
        "loss": DASH if math.isnan(optimum.loss) else f"{optimum.loss:.4f}",
        "curvature": ", ".join(f"{bend:.3f}" for bend in optimum.curvature),
        "untransferred": f"{fit.untransferred_cost(optimum):.4f}",
        "status": ", ".join(dict.fromkeys(optimum.status)),
    }


def _groups(context: RunContext, predicted: Mapping[str, float]) -> dict[str, Any]:
    if not context.target or not context.target.get("groups"):
        return {"groups": None, "group_keys": [], "parameterization": ""}
    groups = resolved_groups(context.target, predicted_settings(context.target, predicted))
    keys = list(next(iter(groups.values())))
    shown = {role: {key: short(float(value)) for key, value in numbers.items()} for role, numbers in groups.items()}
    return {"groups": shown, "group_keys": keys, "parameterization": context.target.get("parameterization")}


def _facts(context: RunContext) -> list[tuple[str, str]]:
    target = context.target
    if not target:
        return []
    states = [f"{count} {state}" for state, count in context.states.items() if count]
    order = {state: rank for rank, state in enumerate((DONE, DIVERGED, PRUNED, FAILED))}
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
