"""Figures as small SVG panels that are readable without colour."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.analysis.laws.exponents import INTERVAL
from hptransfer.analysis.laws.fit import Fit
from hptransfer.analysis.optima.loss_curve import LossCurve
from hptransfer.analysis.optima.response_surface import ResponseSurface
from hptransfer.analysis.predict.decision import decide
from hptransfer.analysis.predict.validation import HeldOut
from hptransfer.analysis.tables.arrays import Array
from hptransfer.analysis.tables.scale_names import format_scale, format_size
from hptransfer.core.records import Objective

# Type of the figures that notebooks display and that exports contain.
Drawing = Figure
# Dark to light, so that the order is visible in grey; markers and dashes repeat it.
COLOURS = ("#1b3a5c", "#2f6f8f", "#3f9b8a", "#8fbc5a", "#d9a441", "#c8643c")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
INK, FAINT, ACCENT = "#1f2933", "#9aa5b1", "#b3261e"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hptransfer",
    "text.parse_math": False,  # a column's name may have a $
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
OPTIMUM_STYLE: Any = {
    "color": ACCENT, "marker": "|", "markersize": 13, "markeredgewidth": 1.4, "capsize": 2, "linewidth": 1.2,
    "zorder": 3,
}  # fmt: skip
# Dots that a panel shows, evenly picked, to limit the size of the page.
MOST_DOTS = 2000
# Panels of one kind on a page.
MOST_PANELS, MOST_MAPS = 12, 6
# Quantile of the losses at the top of a panel: the largest ones would flatten all others.
TOP_QUANTILE = 0.85
# Upper limit of the values of a hyperparameter that a curve connects.
MOST_SECTIONS = 24
# Lines of a coordinate check's panel that its legend names.
LEGEND_ENTRIES = 6
# Smallest ratio of the largest to the smallest value of a coordinate check's panel.
FLAT_SPAN = 8
PANEL_INCHES = (3.7, 2.9)
# Height of a legend's line below a panel, and its size of type and width of a letter and of an entry's mark, in points.
LEGEND_INCHES, LEGEND_POINTS, LETTER_POINTS, MARK_POINTS = 0.18, 8.5, 4.6, 32
MOST_LEGEND_COLUMNS = 3
# Share of an axis that two ticks need between them.
TICK_SHARE = 0.2
# An axis of fewer octaves has its ticks at numbers with these digits.
SHORT_AXIS_OCTAVES, ROUND_DIGITS = 3.5, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
# Octaves of a map beyond its outermost runs.
MARGIN_OCTAVES = 0.35
# Lines of a map, percent of the loss or of the unit of its differences.
LEVELS = (0.1, 0.25, 1, 4)

# Figures parse no mathematics, so that a name may hold any character.
SUPERSCRIPTS = str.maketrans("-.0123456789", "\u207b\u00b7\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


@dataclass(frozen=True)
class Panel:
    """Figure that is drawn on demand."""

    name: str
    draw: Callable[[Axes], None]


def curve_panels(fit: Fit) -> list[Panel]:
    """Return panels of the loss against each tuned value.

    There is one for every combination of all axes but the first. Each point is the best over the other
    hyperparameters.
    """
    other_axes = fit.columns.scales[1:]
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, optimum in enumerate(fit.optima):
        groups.setdefault(tuple(optimum.axes[axis] for axis in other_axes), []).append(index)
    if len(groups) > len(fit.optima) / 2:  # scales without a common grid: all in one panel
        titled_groups = [(fit.columns.objective.name, list(range(len(fit.optima))))]
    else:
        keys = sorted(groups)[-MOST_PANELS:]
        fixed = [dict(zip(other_axes, key, strict=True)) for key in keys]
        titles = [format_scale(axes, fixed) or fit.columns.objective.name for axes in fixed]
        titled_groups = [(title, groups[key]) for title, key in zip(titles, keys, strict=True)]
    return [
        Panel(f"loss_{number}_{fit.tuned[k]}", partial(_draw_curves, fit=fit, indices=indices, k=k, title=title))
        for number, (title, indices) in enumerate(titled_groups, start=1)
        for k in range(len(fit.tuned))
    ]


def _draw_curves(axes: Axes, *, fit: Fit, indices: Sequence[int], k: int, title: str) -> None:
    varying = [axis for axis in fit.columns.scales if len({fit.optima[index].axes[axis] for index in indices}) > 1]
    first, objective = fit.columns.scales[0], fit.columns.objective
    sizes = sorted({optimum.axes[first] for optimum in fit.optima}) if len(varying) < 2 else []
    finite_losses = fit.runs.loss[np.isin(fit.runs.scale, indices) & np.isfinite(fit.runs.loss)]
    top = float(np.quantile(finite_losses, TOP_QUANTILE)) if len(finite_losses) else 1.0
    for rank, index in enumerate(sorted(indices, key=lambda index: fit.optima[index].axes[first])):
        optimum = fit.optima[index]
        cycle, style_index = divmod(sizes.index(optimum.axes[first]) if sizes else rank, len(COLOURS))
        name = format_scale(
            {axis: optimum.axes[axis] for axis in varying}, [fit.optima[shown].axes for shown in indices]
        )
        style: dict[str, Any] = {
            "color": COLOURS[style_index],
            "linestyle": DASHES[style_index],
            "marker": MARKERS[style_index],
        }
        style["markerfacecolor"] = "white" if cycle % 2 else COLOURS[style_index]
        x, y = lower_envelope(fit, index, k)
        finite = np.isfinite(y)
        axes.plot(
            x[finite],
            np.array([objective.shown(loss) for loss in y[finite]]),
            markersize=4,
            linewidth=1.2,
            label=name if rank < 2 * LEGEND_ENTRIES else None,
            **style,
        )
        axes.plot(
            x[~finite], np.full((~finite).sum(), objective.shown(top)), "x", color=COLOURS[style_index], markersize=6
        )
        if np.isfinite(optimum.se[k]):
            axes.errorbar(optimum.x[k], objective.shown(optimum.loss), xerr=1.645 * optimum.se[k], **OPTIMUM_STYLE)
    room = 0.05 * (top - finite_losses.min(initial=top)) or 0.05  # one loss, or none
    axes.set_ylim(*sorted(map(objective.shown, (finite_losses.min(initial=top) - room, top + room))))
    axes.set_title(f"{title} against {fit.tuned[k]}" if title == fit.columns.objective.name else title)
    axes.set_ylabel(objective.label)
    _set_value_ticks(axes.xaxis, fit.tuned[k])
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    """Add a legend below the figure, and increase the height for it."""
    names = axes.get_legend_handles_labels()[1]
    if not names:
        return
    figure = axes.get_figure(root=False)
    assert figure is not None
    width, height = PANEL_INCHES
    entry = LETTER_POINTS * max(map(len, names)) + MARK_POINTS
    columns = min(MOST_LEGEND_COLUMNS, len(names), max(1, int(72 * width / entry)))
    room = LEGEND_INCHES * (0.5 + -(-len(names) // columns))
    if isinstance(figure, Figure):  # a part of a larger figure keeps its size
        figure.set_size_inches(width, height + room)
    figure.subplots_adjust(top=1 - 0.09 * height / (height + room), bottom=(0.16 * height + room) / (height + room))
    figure.legend(
        loc="lower center", fontsize=LEGEND_POINTS, ncol=columns, borderaxespad=0.2, labelspacing=0.3,
        columnspacing=1.2, handlelength=1.8,
    )  # fmt: skip


def lower_envelope(fit: Fit, index: int, k: int) -> tuple[Array, Array]:
    """Return log2 of a scale's values with their least mean losses.

    The values are of one hyperparameter, and the least is over the others. If there are many values, because they are
    not on a grid, only the best of every section of the axis is returned.
    """
    mask = fit.runs.of_scale(index)
    x, loss = fit.runs.x[mask], fit.runs.loss[mask]
    points, point = np.unique(x, axis=0, return_inverse=True)
    mean = np.bincount(point.reshape(-1), loss) / np.bincount(point.reshape(-1))
    values, section = np.unique(points[:, k], return_inverse=True)
    if len(values) > MOST_SECTIONS:
        section = ((points[:, k] - values[0]) / (values[-1] - values[0]) * (MOST_SECTIONS - 1e-9)).astype(int)
    order = np.lexsort((mean, section))
    best = order[np.unique(section[order], return_index=True)[1]]
    return points[best, k], mean[best]


def map_panels(fit: Fit) -> list[Panel]:
    """Return maps of the loss over two hyperparameters, one per scale.

    They show the runs, the optimum and the contours of the fitted response surface.
    """
    if len(fit.tuned) < 2:
        return []
    return [Panel(f"map_{index + 1}", partial(_draw_map, fit=fit, index=index)) for index in _largest_scales(fit)]


def _largest_scales(fit: Fit) -> list[int]:
    """Return the positions of the shown scales: all, or the largest."""
    return list(range(len(fit.optima)))[-MOST_MAPS:]


def _draw_map(axes: Axes, *, fit: Fit, index: int) -> None:
    optimum = fit.optima[index]
    loss = optimum.loss if np.isfinite(optimum.loss) else 1.0  # of a scale where all runs diverged
    unit, mask = fit.runs.response.slope(loss), fit.runs.of_scale(index) & np.isfinite(fit.runs.loss)
    shown_runs = np.flatnonzero(mask)[:: 1 + mask.sum() // MOST_DOTS]
    x, above = fit.runs.x[shown_runs][:, :2], 100 * (fit.runs.loss[shown_runs] - optimum.loss) / unit
    shown = np.clip(above, 0.05, 20)
    shades = np.log10(shown)
    axes.scatter(x[:, 0], x[:, 1], c=shades, cmap="Greys_r", s=26, edgecolors=FAINT, linewidths=0.4, marker="s")
    ends = optimum.tried[:2] + np.array([-MARGIN_OCTAVES, MARGIN_OCTAVES])
    grid_x, grid_y = (np.linspace(low, high, 50) for low, high in ends)
    middle = [optimum.x[2:]] * 2500
    mesh = np.column_stack([np.repeat(grid_x, 50), np.tile(grid_y, 50), np.array(middle)])
    excess = fit.excess_loss(optimum.axes, mesh - optimum.x, loss).reshape(50, 50) / unit
    axes.contour(grid_x, grid_y, 100 * excess.T, levels=LEVELS, colors=COLOURS[1], linewidths=0.9)
    axes.errorbar(optimum.x[0], optimum.x[1], xerr=1.645 * optimum.se[0], yerr=1.645 * optimum.se[1], **OPTIMUM_STYLE)
    axes.set_title(fit.runs.format_scale(optimum.axes))
    _set_value_ticks(axes.xaxis, fit.tuned[0])
    _set_value_ticks(axes.yaxis, fit.tuned[1])


def levels_text(fit: Fit) -> str:
    """Return the lines of a map as text."""
    unit = fit.runs.response.unit
    *others, last = [f"{level if unit is None else level * unit / 100:.2g}" for level in LEVELS]
    text = f"{', '.join(others)} and {last}"
    return f"{text}%" if unit is None else fit.columns.objective.with_unit(text)


def law_panels(fit: Fit, target: Mapping[str, float], verified: Mapping[str, float] | None) -> list[Panel]:
    """Return panels of each hyperparameter's optimum against every axis.

    The optima are shifted along the law to the target's values of the other axes.
    """
    return [
        Panel(
            f"law_{fit.tuned[k]}_{axis}", partial(_draw_law, fit=fit, k=k, axis=axis, target=target, verified=verified)
        )
        for k in range(len(fit.tuned))
        for axis in fit.swept.moving
    ]


def _draw_law(axes: Axes, *, fit: Fit, k: int, axis: str, target: Mapping[str, float], verified: Any) -> None:
    values = [optimum.axes[axis] for optimum in fit.optima]
    ends = np.log2([min(*values, target[axis]), max(*values, target[axis])])
    grid = np.linspace(ends[0] - 0.2, ends[1] + 0.2, 60)
    scales = [{**target, axis: float(2.0**value)} for value in grid]
    low, high = np.percentile(fit.mixture.draws(scales)[:, :, k], INTERVAL, axis=0)
    axes.fill_between(grid, low, high, color=FAINT, alpha=0.35, linewidth=0, label="law, 90%")
    axes.plot(grid, fit.mixture.mean(scales)[:, k], color=INK, linewidth=1.3)
    placed = [index for index, optimum in enumerate(fit.optima) if np.isfinite(optimum.se[k])]
    moved = moved_to(fit, axis, target)[:, k]
    axes.errorbar(
        np.log2(values)[placed], moved[placed], yerr=[1.645 * fit.optima[index].se[k] for index in placed], fmt="o",
        color=COLOURS[1], markersize=4, capsize=2, linewidth=1, label="scales",
    )  # fmt: skip
    if fit.divergence is not None and fit.divergence.has_edge[k]:
        optima = fit.mixture.mean(scales)
        edge = [fit.divergence.edge(x, scale, k) for x, scale in zip(optima, scales, strict=True)]
        if np.isfinite(edge).any():
            axes.plot(grid, edge, color=INK, linewidth=1, linestyle=":", label="edge of divergence")
    x, low_x, high_x = fit.predict(target)[k]
    at_target = np.log2(target[axis])
    axes.errorbar(
        at_target, x, yerr=[[x - low_x], [high_x - x]], fmt="D", color=ACCENT, markersize=5, capsize=3, linewidth=1.4,
        label="target",
    )  # fmt: skip
    axes.plot(at_target, decide(fit, target).value[k], "_", color=ACCENT, markersize=13, label="recommended")
    if verified is not None:
        best = np.log2(verified[fit.tuned[k]])
        axes.plot(at_target, best, "*", color=INK, markersize=10, markerfacecolor="white", label="verified")
    axes.set_title(f"{fit.tuned[k]} against {axis}")
    axes.set_xlabel(axis)
    _set_swept_ticks(axes.xaxis, [*values, target[axis]])
    _set_value_ticks(axes.yaxis, "")
    _legend_below(axes)


def moved_to(fit: Fit, axis: str, target: Mapping[str, float]) -> Array:
    """Return the scales' optima shifted to the target's other axes, (scales, tuned).

    The shift is by the law; `axis` keeps each scale's value.
    """
    scales = [optimum.axes for optimum in fit.optima]
    by_law = fit.mixture.mean([{**target, axis: scale[axis]} for scale in scales])
    moved: Array = np.array([optimum.x for optimum in fit.optima]) + by_law - fit.mixture.mean(scales)
    return moved


def residual_panels(fit: Fit) -> list[Panel]:
    """Return panels of the residuals against the excess over the optimum."""
    surfaces = [estimate.surface for estimate in fit.shapes if estimate.surface]
    return [
        Panel(f"residuals_{surface.shape.form}", partial(_draw_residuals, fit=fit, surface=surface))
        for surface in surfaces
    ]


def _draw_residuals(axes: Axes, *, fit: Fit, surface: ResponseSurface) -> None:
    axes.axhline(0, color=FAINT, linewidth=0.8)
    shown = slice(None, None, 1 + len(surface.excess) // MOST_DOTS)
    objective, unit = fit.columns.objective, fit.runs.response.unit
    factor, of_unit = (100.0, ", %") if unit is None else (unit, f", {objective.unit}" if objective.unit else "")
    axes.plot(factor * surface.excess[shown], factor * surface.residuals[shown], ".", color=COLOURS[1], markersize=3.5)
    reach = np.linspace(0, factor * surface.excess.max(), 50)
    band = 1.645 * np.hypot(factor * surface.noise, surface.discrepancy * reach)
    axes.plot(reach, band, color=INK, linewidth=0.9, linestyle="--", label="90% by the fit")
    axes.plot(reach, -band, color=INK, linewidth=0.9, linestyle="--")
    axes.set_title(f"{surface.shape.form} response surface")
    side = "below" if objective.maximized else "above"
    axes.set_xlabel(f"{objective.name} {side} the optimum{of_unit}")
    axes.set_ylabel(f"{'fitted minus measured' if objective.maximized else 'measured minus fitted'}{of_unit}")
    _legend_below(axes)


def extrapolation_panels(held_out: Sequence[HeldOut], objective: Objective) -> list[Panel]:
    """Return a panel of the regret against the octaves of extrapolation."""
    draw = partial(_draw_extrapolation, held_out=held_out, objective=objective)
    return [Panel("extrapolation", draw)] if held_out else []


def _draw_extrapolation(axes: Axes, *, held_out: Sequence[HeldOut], objective: Objective) -> None:
    absolute = any(math.isnan(scale.regret_percent) for scale in held_out)
    shown = held_out[:: 1 + len(held_out) // MOST_DOTS]
    axes.plot(
        [scale.extrapolation_octaves for scale in shown],
        [scale.regret_nats if absolute else scale.regret_percent for scale in shown],
        "o",
        color=COLOURS[1],
        ms=4,
    )
    axes.set_title("larger scales from smaller ones")
    axes.set_xlabel("octaves beyond the largest scale used")
    axes.set_ylabel(replace(objective, name="regret").label if absolute else "regret, %")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)


def verification_panels(verification: Mapping[str, Any], objective: Objective) -> list[Panel]:
    """Return panels of a verification, one per hyperparameter.

    They show the trained losses, the prediction, the target's best value and the smallest scale's optimum.
    """
    names = verification["predicted"]
    return [
        Panel(
            f"verification_{name}",
            partial(_draw_verification, verification=verification, name=name, objective=objective),
        )
        for name in names
    ]


def untransferred_of(verification: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the smallest scale's optimum and its regret from verification.json.

    Earlier versions wrote them under the key `unmoved`.
    """
    values: Mapping[str, Any] = verification["untransferred" if "untransferred" in verification else "unmoved"]
    return values


def _draw_verification(axes: Axes, *, verification: Mapping[str, Any], name: str, objective: Objective) -> None:
    other_values = {key: value for key, value in verification["predicted"].items() if key != name}
    points = [
        (point[name], point["loss"])
        for point in verification["points"]
        if point["loss"] is not None and all(np.isclose(point[key], value) for key, value in other_values.items())
    ]
    curve = LossCurve([value for value, _ in points], [objective.minimized(loss) for _, loss in points])
    marks = [
        ("predicted", verification["predicted"][name], ACCENT, "D"),
        ("best", verification["best"][name], INK, "*"),
    ]
    if (smallest := untransferred_of(verification)[name]) is not None:
        marks.append(("smallest scale's", smallest, COLOURS[4], "^"))
    fine = np.linspace(curve.x[0], curve.x[-1], 300)
    axes.plot(fine, [objective.shown(curve.at(float(x))) for x in fine], color=FAINT, linewidth=1.2)
    axes.plot(curve.x, [objective.shown(loss) for loss in curve.y], "o", color=COLOURS[1], markersize=4)
    for label, value, colour, marker in marks:
        x = float(np.log2(value))
        if curve.x[0] <= x <= curve.x[-1]:
            axes.plot(
                x, objective.shown(curve.at(x)), marker, color=colour, markersize=8, label=label, linestyle="none"
            )
    axes.set_title(format_scale(verification["scale"]))
    axes.set_ylabel(objective.label)
    _set_value_ticks(axes.xaxis, name)
    _legend_below(axes)


def _set_value_ticks(axis: Any, name: str) -> None:
    """Set ticks of an axis of log2 values.

    They are at (half) powers of two: as powers on the horizontal axis, as values on the vertical one. A short vertical
    axis has ticks at round values.
    """
    low, high = axis.get_view_interval()
    axis.set_label_text(name)
    if axis.axis_name == "y" and high - low < SHORT_AXIS_OCTAVES:
        tens = range(math.floor(low * math.log10(2)), math.ceil(high * math.log10(2)) + 1)
        values = [digits * 10.0**ten for ten in tens for digits in ROUND_DIGITS]
        values = [value for value in values if low <= math.log2(value) <= high]
        values = values[:: 1 + len(values) // 7]
        axis.set_ticks(np.log2(values), [f"{value:.4g}" for value in values])
        return
    step = 0.5 if high - low < 3 else max(1, round((high - low) / 6))
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    vertical = axis.axis_name == "y"
    shown = [f"{2.0**tick:.0f}" if tick >= 2 else f"{2.0**tick:.2g}" for tick in ticks]
    labels = shown if vertical else ["2" + f"{tick:g}".translate(SUPERSCRIPTS) for tick in ticks]
    axis.set_ticks(ticks, labels)


def _set_swept_ticks(axis: Any, values: Sequence[float]) -> None:
    """Set ticks at the swept values and the target, without overlaps."""
    low, *inner, high = sorted({float(value) for value in values})
    least_gap = TICK_SHARE * np.log2(high / low)
    shown = [low]
    for value in inner:
        if np.log2(value / shown[-1]) >= least_gap and np.log2(high / value) >= least_gap:
            shown.append(value)
    shown.append(high)
    axis.set_ticks(np.log2(shown), [format_size(float(f"{value:.3g}") if value >= 1e6 else value) for value in shown])


def curves_figure(fit: Fit) -> str:
    """Return all curve panels as one SVG file."""
    panels = curve_panels(fit)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL_INCHES
    with rc_context(STYLE):
        drawn = Figure(figsize=(width * columns, height * rows))
        for index, part in enumerate(np.ravel(drawn.subfigures(rows, columns, squeeze=False))[: len(panels)]):
            part.subplots_adjust(left=0.2, right=0.97, top=0.91, bottom=0.16)
            panels[index].draw(part.add_subplot())
        return figure_svg(drawn)


def figures(fit: Fit, target: Mapping[str, float], held_out: Sequence[HeldOut]) -> dict[str, Figure]:
    """Return every figure of the page by name."""
    panels = [
        *law_panels(fit, target, None),
        *extrapolation_panels(held_out, fit.columns.objective),
        *curve_panels(fit),
        *map_panels(fit),
    ]
    return {panel.name: panel_figure(panel) for panel in [*panels, *residual_panels(fit)]}


def panel_figure(panel: Panel) -> Figure:
    """Return one panel as a figure."""
    with rc_context(STYLE):
        drawn = Figure(figsize=PANEL_INCHES)
        drawn.subplots_adjust(left=0.2, right=0.97, top=0.91, bottom=0.16)
        panel.draw(drawn.add_subplot())
    return drawn


def panel_svg(panel: Panel) -> str:
    """Return one panel as scalable SVG without external references."""
    drawn = panel_figure(panel)
    with rc_context(STYLE):
        text = figure_svg(drawn)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2).replace("xlink:href", "href")


def figure_svg(figure: Figure) -> str:
    """Return a figure as SVG; equal figures give equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return buffer.getvalue()
