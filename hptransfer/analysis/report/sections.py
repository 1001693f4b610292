"""Sections of the page, as the template receives them.

Numbers are text, figures are SVG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hptransfer.analysis.laws.exponents import TRANSFER_TOLERANCE, has_verdict
from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.optima.scale_optima import BOUNDED, EDGE_HIGH, EDGE_LOW, Optimum
from hptransfer.analysis.optima.stray_runs import ExcludedRun
from hptransfer.analysis.predict.decision import decide
from hptransfer.analysis.predict.findings import (
    EXCLUDED_IN_SENTENCE,
    Findings,
    excluded_sentence,
    extrapolation_sentence,
    format_percent,
    held_out_sentence,
    risk_sentence,
)
from hptransfer.analysis.predict.next_runs import NextRun
from hptransfer.analysis.predict.published_laws import published_laws_apply, published_predictions
from hptransfer.analysis.predict.validation import HeldOut, regret_per_octave
from hptransfer.analysis.report import figures
from hptransfer.analysis.report.run_context import RunContext
from hptransfer.analysis.report.target_groups import FACTOR_KEYS, predicted_settings, resolved_groups
from hptransfer.analysis.tables.quantities import quantity_of
from hptransfer.analysis.tables.scale_names import format_scale
from hptransfer.core.records import CANCELLED, DIVERGED, DONE, FAILED, NATS, PRUNED, Objective, Scale, short

# Rows of the tables of next runs, of targets, and of scales; the written files have all.
NEXT_RUN_ROWS, TARGET_ROWS, SCALE_ROWS = 8, 40, 60
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Answer:
    """Predicted value of a hyperparameter or of the loss, with its interval."""

    name: str
    value: str
    low: str
    high: str

    @classmethod
    def of(cls, prediction: pd.Series[Any], name: str) -> Answer:
        """Return the answer that a row of the predictions holds."""
        value, low, high = (short(float(prediction[name + end])) for end in ("", "_low", "_high"))
        return cls(name, value, low, high)


@dataclass(frozen=True)
class Tile:
    """Short answer of the first screen, with its meaning."""

    answer: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """Head of the page: the prediction for the first target.

    Attributes:
        tuned: names of the tuned hyperparameters.
        metric, maximized, unit: name, goal and unit of the metric; the unit may be blank.
        tiles: risk, verification, cost, and the loss of reusing the smallest scale's optimum.
        risk: sentence about the loss that the values risk.
        edges: sentence about the values that diverge; blank without one.
        extrapolation: sentence about the target's distance from the swept scales.
        excluded: sentence about runs with a finite loss that were left out; blank without one. `excluded_runs`: all of
            them, where the sentence names the first ones alone.
        verifiable: True for a page of a run folder that has not been verified.
        of_run: True for a page of a run folder.
    """

    title: str
    tuned: str
    target: str
    answers: Sequence[Answer]
    loss: Answer
    metric: str
    maximized: bool
    unit: str
    tiles: Sequence[Tile]
    risk: str
    edges: str
    extrapolation: str
    excluded: str
    excluded_runs: Sequence[ExcludedRun]
    warnings: Sequence[str]
    verifiable: bool
    of_run: bool


@dataclass(frozen=True)
class TargetRow:
    """Prediction for one of several targets."""

    name: str
    answers: Sequence[Answer]
    extrapolation_octaves: str


@dataclass(frozen=True)
class GroupTable:
    """Resolved settings of the target's parameter groups, by group and key.

    Attributes:
        keys: columns of the table.
        factors: number of the last columns that are factors on the base's.
    """

    parameterization: str
    keys: Sequence[str]
    factors: int
    groups: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class MovementRow:
    """Movement of an optimum along an axis, and its cost if ignored.

    Attributes:
        moves: `Exponent.movement`.
    """

    tuned: str
    axis: str
    moves: str
    exponent: str
    factor: str
    ignored: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class ExponentSection:
    """Exponents with the laws that they come from.

    Attributes:
        priors: those from published studies.
        scatter: of single scales about the law, octaves.
        laws: weight of each form.
        edges: True if panels show the edge of divergence.
    """

    rows: Sequence[MovementRow]
    tolerance: float
    priors: Sequence[str]
    scatter: str
    laws: Sequence[tuple[str, str]]
    edges: bool
    panels: Sequence[str]


@dataclass(frozen=True)
class HeldOutRow:
    """Scale that is predicted from all others."""

    name: str
    error: str
    covered: str
    regret: str


@dataclass(frozen=True)
class PublishedRow:
    """Prediction of a published law, or of this fit."""

    name: str
    rate: str
    batch: str


@dataclass(frozen=True, kw_only=True)
class ExtrapolationSection:
    """Validation of the predictions.

    Attributes:
        largest: sentence about the largest scale, predicted from all others.
        regret_per_octave: percent of the loss; None without any held-out scale.
    """

    largest: str
    regret_per_octave: float | None
    verification_panels: Sequence[str]
    panels: Sequence[str]
    held_out: Sequence[HeldOutRow]
    published: Sequence[PublishedRow]


@dataclass(frozen=True)
class NextRunRow:
    """Run of the ranking."""

    scale: str
    settings: str
    cost: str
    narrowing: str


@dataclass(frozen=True, kw_only=True)
class LossPanels:
    """Panels of the measured losses and of the fit's residuals.

    Attributes:
        levels: lines of the maps.
    """

    curves: Sequence[str]
    maps: Sequence[str]
    maps_note: str
    levels: str
    residuals: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """Optimum of a scale, with the number of its runs."""

    name: str
    runs: str
    diverged: str
    failed: str
    best: str
    se: str
    loss: str
    curvature: str
    untransferred: str
    status: str


@dataclass(frozen=True, kw_only=True)
class ScaleTable:
    """Optima of the scales.

    Attributes:
        omitted: number of the cheapest scales without a row.
        noise: of a loss at the optimum.
    """

    rows: Sequence[ScaleRow]
    omitted: int
    noise: str
    estimator: str


def head(analysis: Findings, context: RunContext) -> Head:
    """Return the head of the page."""
    fit, prediction = analysis.fit, analysis.predictions.iloc[0]
    target = _first_target(analysis)
    return Head(
        title=context.title,
        tuned=", ".join(fit.tuned),
        target=fit.runs.format_scale(target),
        answers=[Answer.of(prediction, name) for name in fit.tuned],
        loss=Answer.of(prediction, "loss"),
        metric=fit.columns.objective.name,
        maximized=fit.columns.objective.maximized,
        unit=fit.columns.objective.unit,
        tiles=_tiles(analysis, context),
        risk=risk_sentence(prediction, fit.columns.objective),
        edges=_edges(prediction, fit.tuned),
        extrapolation=extrapolation_sentence(fit, target),
        excluded=excluded_sentence(fit) if fit.excluded else "",
        excluded_runs=fit.excluded if len(fit.excluded) > EXCLUDED_IN_SENTENCE else (),
        warnings=analysis.warnings,
        verifiable=context.target is not None and not context.verification,
        of_run=context.target is not None,
    )


def _tiles(analysis: Findings, context: RunContext) -> list[Tile]:
    """Return the short answers of the first screen."""
    prediction, objective = analysis.predictions.iloc[0], analysis.fit.columns.objective
    expected = _share_text(prediction["risk_expected_percent"], prediction["risk_expected"], objective)
    tiles = [Tile(expected, "risk: expected loss to the target's own optimum")]
    if context.verification:
        tiles += _verified_tiles(context.verification, objective)
    else:
        tiles.append(Tile("Not verified", "the target has not been trained around this answer"))
    tiles.append(_cost_tile(analysis.fit, context))
    if not context.verification:
        values = ", ".join(f"{name} {short(value)}" for name, value in analysis.smallest_optimum().items())
        lost, interval = analysis.ignored_loss, ""
        if not lost.diverges and not lost.beyond_runs:
            low, high = (
                _share_text(lost.response.percent(above, lost.loss), above, objective)
                for above in (lost.nats.low, lost.nats.high)
            )
            interval = f" ({low} to {high})"
        about = f"estimated loss of reusing the smallest scale's optimum, {values}{interval}"
        tiles.append(Tile(lost.percent() or objective.with_unit(lost.text(4)), about))
    return tiles


def _share_text(percent: float, loss: float, objective: Objective) -> str:
    """Return a loss in percent, else in its own unit."""
    return objective.with_unit(short(float(f"{loss:.2g}"))) if math.isnan(percent) else format_percent(percent)


def _verified_tiles(verification: Mapping[str, Any], objective: Objective) -> list[Tile]:
    """Return the measurements of verification.json."""
    reused, errors = figures.untransferred_of(verification), verification["error_octaves"]
    best = ", ".join(f"{name} {short(verification['best'][name])} ({errors[name]:+.2f} octaves)" for name in errors)
    values = ", ".join(f"{name} {short(reused[name])}" for name in errors)
    return [
        Tile(
            _regret_of(verification, objective),
            f"verified at {format_scale(verification['scale'])}: regret of this value; the target's own best is {best}",
        ),
        Tile(
            _regret_of(reused, objective),
            f"measured loss of reusing the smallest scale's optimum ({values})",
        ),
    ]


def _regret_of(values: Mapping[str, Any], objective: Objective) -> str:
    """Return a measured regret in percent, else in the loss's unit."""
    percent, regret = values["regret_percent"], values["regret_nats"]
    if percent is None and regret is None:
        return "diverged"
    return objective.with_unit(f"{regret:.4f}") if percent is None else f"{percent:.2f}%"


def _cost_tile(fit: Fit, context: RunContext) -> Tile:
    """Return the cost of the runs as a share, if known."""
    runs, flops = len(fit.runs.loss), context.target.get("flops") if context.target else None
    if flops:
        return Tile(f"{context.flops / flops:.0%}", f"cost of the {runs} runs, as a share of the target's own training")
    return Tile(f"{runs} runs", f"at {len(fit.optima)} scales; their cost is not known")


def _edges(prediction: pd.Series[Any], tuned: Sequence[str]) -> str:
    """Return a sentence about the edges of divergence, blank without one."""
    edges = {name: float(prediction[f"{name}_stable_below"]) for name in tuned}
    stable = [f"{name} {short(float(f'{edge:.3g}'))}" for name, edge in edges.items() if not math.isnan(edge)]
    return f"Even odds of divergence at {', '.join(stable)}." if stable else ""


def _first_target(analysis: Findings) -> dict[str, float]:
    """Return the scale of the first target, which the figures extend to."""
    prediction = analysis.predictions.iloc[0]
    return {axis: float(prediction[axis]) for axis in analysis.fit.columns.scales}


def target_rows(analysis: Findings) -> list[TargetRow]:
    """Return the rows of all targets, if there are several."""
    names = [*analysis.fit.tuned, "loss"]
    if len(analysis.predictions) < 2:
        return []
    shown = analysis.predictions.head(TARGET_ROWS)
    scales = [{axis: float(row[axis]) for axis in analysis.fit.columns.scales} for _, row in shown.iterrows()]
    return [
        TargetRow(
            format_scale(scale, scales),
            [Answer.of(row, name) for name in names],
            f"{row['extrapolation_octaves']:.1f}",
        )
        for scale, (_, row) in zip(scales, shown.iterrows(), strict=True)
    ]


def group_table(analysis: Findings, context: RunContext) -> GroupTable | None:
    """Return the target's parameter groups, if the run has any."""
    if not context.target or not context.target.get("groups"):
        return None
    prediction = analysis.predictions.iloc[0]
    predicted = {name: float(prediction[name]) for name in analysis.fit.tuned}
    groups = resolved_groups(context.target, predicted_settings(context.target, predicted))
    keys = list(dict.fromkeys(key for numbers in groups.values() for key in numbers))  # muon's groups have their own
    return GroupTable(
        context.target["parameterization"],
        sorted(keys, key=FACTOR_KEYS.__contains__),
        sum(key in FACTOR_KEYS for key in keys),
        {
            role: {key: short(numbers[key]) if key in numbers else DASH for key in keys}
            for role, numbers in groups.items()
        },
    )


def exponent_section(analysis: Findings, context: RunContext) -> ExponentSection:
    """Return the exponents and the laws."""
    fit, target = analysis.fit, _first_target(analysis)
    best = context.verification["best"] if context.verification else None
    return ExponentSection(
        rows=_movement_rows(analysis),
        tolerance=TRANSFER_TOLERANCE,
        priors=fit.published_priors,
        scatter=", ".join(f"{name} {value:.2f}" for name, value in zip(fit.tuned, fit.mixture.scatter(), strict=True)),
        laws=[(name, f"{share:.0%}") for name, share in fit.mixture.shares().items()],
        edges=fit.divergence is not None and bool(fit.divergence.has_edge.any()),
        panels=_svgs(figures.law_panels(fit, target, best)),
    )


def _movement_rows(analysis: Findings) -> list[MovementRow]:
    rows = []
    for name, by_axis in analysis.fit.exponents.items():
        for axis, exponent in by_axis.items():
            to_target = analysis.movements[name][axis]
            rows.append(
                MovementRow(
                    tuned=name,
                    axis=axis,
                    moves=exponent.movement,
                    exponent=f"{exponent.value:+.2f} ({exponent.low:+.2f} to {exponent.high:+.2f})",
                    factor=to_target.factor.text(),
                    ignored=to_target.ignored.sentence(),
                    verdict=exponent.verdict if has_verdict(name, axis) else DASH,
                )
            )
    return rows


def _svgs(panels: Sequence[figures.Panel]) -> list[str]:
    return [figures.panel_svg(panel) for panel in panels]


def extrapolation_section(analysis: Findings, context: RunContext) -> ExtrapolationSection:
    """Return the validation of the predictions, and published ones."""
    fit, verification = analysis.fit, context.verification
    return ExtrapolationSection(
        largest=held_out_sentence(fit, analysis.leave_one_out),
        regret_per_octave=regret_per_octave(analysis.larger_from_smaller),
        verification_panels=_svgs(figures.verification_panels(verification, fit.columns.objective))
        if verification
        else [],
        panels=_svgs(figures.extrapolation_panels(analysis.larger_from_smaller, fit.columns.objective)),
        held_out=[_held_out_row(fit, held_out) for held_out in analysis.leave_one_out[-SCALE_ROWS:]],
        published=_published_rows(fit, _first_target(analysis)),
    )


def _held_out_row(fit: Fit, held_out: HeldOut) -> HeldOutRow:
    return HeldOutRow(
        name=fit.runs.format_scale(held_out.axes),
        error=", ".join(f"{error:+.2f}" for error in held_out.error),
        covered="yes" if all(held_out.covered) else "no",
        regret=(
            f"{held_out.regret_nats:.4f}" if math.isnan(held_out.regret_percent) else f"{held_out.regret_percent:.3f}%"
        ),
    )


def _published_rows(fit: Fit, scale: Mapping[str, float]) -> list[PublishedRow]:
    """Return the predictions of published laws, if the columns have their inputs."""
    if not published_laws_apply(fit.columns):
        return []
    rows = [_fit_row(fit, scale)]
    loss = fit.predict_loss(scale)[0] if fit.columns.objective.unit == NATS else None
    for name, predictions in published_predictions(fit.columns, scale, loss).items():
        shown = {key: short(float(f"{value:.4g}")) for key, value in predictions.items()}
        rows.append(PublishedRow(name, shown.get("learning_rate", DASH), shown.get("batch_tokens", DASH)))
    return rows


def _fit_row(fit: Fit, scale: Mapping[str, float]) -> PublishedRow:
    """Return this fit's prediction, its batch size in the table's unit."""
    logs = decide(fit, scale).value
    values = {quantity_of(name): short(float(2.0**x)) for name, x in zip(fit.tuned, logs, strict=True)}
    batch = f"{values['batch']} as in the table" if "batch" in values else DASH
    return PublishedRow("this fit", values.get("rate", DASH), batch)


def next_run_rows(analysis: Findings) -> list[NextRunRow]:
    """Return the first rows of the ranking of next runs."""
    return [_next_run_row(analysis.fit, proposal) for proposal in analysis.next_runs[:NEXT_RUN_ROWS]]


def _next_run_row(fit: Fit, proposal: NextRun) -> NextRunRow:
    settings = [", ".join(short(float(f"{2.0**x:.4g}")) for x in setting) for setting in proposal.settings]
    return NextRunRow(
        scale=fit.runs.format_scale(proposal.axes),
        settings="; ".join(settings),
        cost=f"{proposal.flops:.3g}",
        narrowing=f"{proposal.narrowing:.1%}",
    )


def loss_panels(fit: Fit) -> LossPanels:
    """Return the panels of losses, maps and residuals."""
    most, count = figures.MOST_MAPS, len(fit.optima)
    return LossPanels(
        curves=_svgs(figures.curve_panels(fit)),
        maps=_svgs(figures.map_panels(fit)),
        maps_note=f" The {most} largest of {count} scales." if count > most else "",
        levels=figures.levels_text(fit),
        residuals=_svgs(figures.residual_panels(fit)),
    )


def scale_table(fit: Fit, context: RunContext) -> ScaleTable:
    """Return the optima of the largest scales."""
    return ScaleTable(
        rows=[_scale_row(fit, optimum, context) for optimum in fit.optima[-SCALE_ROWS:]],
        omitted=max(0, len(fit.optima) - SCALE_ROWS),
        noise=f"{fit.noise:.4f}",
        estimator=fit.estimator,
    )


def _scale_row(fit: Fit, optimum: Optimum, context: RunContext) -> ScaleRow:
    signs = [
        "\u2264 " if status == EDGE_LOW else "\u2265 " if status in (EDGE_HIGH, BOUNDED) else ""
        for status in optimum.status
    ]
    values = [f"{sign}{short(float(2.0**x))}" for sign, x in zip(signs, optimum.x, strict=True)]
    return ScaleRow(
        name=fit.runs.format_scale(optimum.axes),
        runs=str(optimum.runs),
        diverged=str(optimum.diverged or DASH),
        failed=str(context.failed.get(Scale(optimum.axes).key, DASH)),
        best=", ".join(values),
        se=", ".join(f"{error:.2f}" if math.isfinite(error) else DASH for error in optimum.se),
        loss=DASH if math.isnan(optimum.loss) else f"{fit.columns.objective.shown(optimum.loss):.4f}",
        curvature=DASH if math.isnan(optimum.loss) else ", ".join(f"{each:.3f}" for each in optimum.curvature),
        untransferred=fit.untransferred_cost(optimum).text(4),
        status=", ".join(dict.fromkeys(optimum.status)),
    )


def facts(context: RunContext) -> list[tuple[str, str]]:
    """Return facts about a run by name; empty for a table."""
    target = context.target
    if not target:
        return []
    states = [f"{count} {state}" for state, count in context.states.items() if count]
    order = {state: rank for rank, state in enumerate((DONE, DIVERGED, PRUNED, FAILED, CANCELLED))}
    states.sort(key=lambda text: order.get(text.split()[1], 9))
    of_target = []
    if target["flops"]:
        of_target = [
            ("of the target", f"{target['flops']:.3g} ({target['params']:,} parameters)"),
            ("cost", f"{context.flops / target['flops']:.1%} of the target's own training"),
        ]
    return [
        ("sweep", target["name"]),
        ("trials", ", ".join(states)),
        ("training FLOPs of the sweep", f"{context.flops:.3g}"),
        *of_target,
        *([("parameterization", target["parameterization"])] if target["parameterization"] else []),
        ("script fingerprint" if "command" in target else "data fingerprint", target["fingerprint"]),
    ]
