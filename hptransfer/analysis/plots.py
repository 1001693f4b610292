"""Figures as SVG text: small panels, told apart without colour, that a page can lay out in a grid."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.analysis.fit import INTERVAL, Fit, describe
from hptransfer.analysis.optimum import Array, Curve, Optimum

# Dark to light, so that the order survives a grey printer; markers and dashes say it again.
COLOURS = ("#1b3a5c", "#2f6f8f", "#3f9b8a", "#8fbc5a", "#d9a441", "#c8643c")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
INK, FAINT, ACCENT = "#1f2933", "#9aa5b1", "#b3261e"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hptransfer",
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
    "legend.fontsize": 8.5,
}
# Lines of a check's panel that its legend names.
NAMED = 6
# Height of a check's panel, at least: largest value over smallest.
FLAT_SPAN = 8
PANEL_INCHES = (3.7, 2.9)


def curve_panels(fit: Fit) -> list[str]:
    """Loss against the tuned value: a panel for every setting of all axes but the first."""
    return [_panel(draw) for draw in _curve_drawings(fit)]


def curves_figure(fit: Fit) -> str:
    """The same panels as one SVG file."""
    drawings = _curve_drawings(fit)
    columns = min(3, len(drawings))
    rows = -(-len(drawings) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), layout="constrained")
        for place, draw in enumerate(drawings):
            draw(figure.add_subplot(rows, columns, place + 1))
        return _svg(figure)


def _curve_drawings(fit: Fit) -> list[Callable[[Axes], None]]:
    first, *others = fit.columns.scales
    groups: dict[tuple[float, ...], list[Optimum]] = {}
    for one in fit.optima:
        groups.setdefault(tuple(one.cell.axes[axis] for axis in others), []).append(one)
    sizes = sorted({one.cell.axes[first] for one in fit.optima})

    def drawing(key: tuple[float, ...]) -> Callable[[Axes], None]:
        title = describe(dict(zip(others, key, strict=True))) or fit.columns.loss
        return lambda axes: _curves(axes, groups[key], first, sizes, title, fit)

    return [drawing(key) for key in sorted(groups)]


def _curves(axes: Axes, optima: Sequence[Optimum], first: str, sizes: Sequence[float], title: str, fit: Fit) -> None:
    finite_losses = [loss for one in optima for loss in one.cell.y if np.isfinite(loss)]
    top = max(finite_losses, default=1.0)
    for one in sorted(optima, key=lambda one: one.cell.axes[first]):
        rank = sizes.index(one.cell.axes[first]) % len(COLOURS)
        finite = np.isfinite(one.cell.y)
        style: dict[str, Any] = {"color": COLOURS[rank], "linestyle": DASHES[rank], "marker": MARKERS[rank]}
        axes.plot(
            one.cell.x[finite],
            one.cell.y[finite],
            markersize=4,
            linewidth=1.2,
            label=f"{first} {sizes[rank]:g}",
            **style,
        )
        axes.plot(one.cell.x[~finite], np.full((~finite).sum(), top), "x", color=COLOURS[rank], markersize=6)
        if one.bracketed:
            axes.errorbar(
                one.x,
                one.loss,
                xerr=1.645 * one.se,
                color=ACCENT,
                marker="|",
                markersize=13,
                markeredgewidth=1.4,
                capsize=2,
                linewidth=1.2,
                zorder=3,
            )
    axes.set_title(title)
    axes.set_ylabel("loss, nats")
    _value_axis(axes.xaxis, fit.columns.tuned_one)
    axes.legend(loc="best")


def law_panels(fit: Fit, target: Mapping[str, float], verified: float | None) -> list[str]:
    """The optimum against every axis, all others taken to the target's value by the law."""
    return [_panel(lambda axes, axis=axis: _law(axes, fit, axis, target, verified)) for axis in fit.law.design.axes]


def _law(axes: Axes, fit: Fit, axis: str, target: Mapping[str, float], verified: float | None) -> None:
    design = fit.law.design
    values = [one.cell.axes[axis] for one in fit.bracketed]
    ends = np.log2([min(*values, target[axis]), max(*values, target[axis])])
    grid = np.linspace(ends[0] - 0.2, ends[1] + 0.2, 60)
    rows = design.matrix([{**target, axis: float(2.0**value)} for value in grid])
    low, high = np.percentile(fit.draws @ rows.T, INTERVAL, axis=0)
    axes.fill_between(grid, low, high, color=FAINT, alpha=0.35, linewidth=0, label="law, 90%")
    axes.plot(grid, rows @ fit.law.coefficients, color=INK, linewidth=1.3)
    moved = _moved_to(fit, axis, target)
    axes.errorbar(
        np.log2(values), moved, yerr=[1.645 * one.se for one in fit.bracketed], fmt="o", color=COLOURS[1], markersize=4,
        capsize=2, linewidth=1, label="scales",
    )  # fmt: skip
    x, low_x, high_x = fit.predict(target)
    place = np.log2(target[axis])
    axes.errorbar(
        place,
        x,
        yerr=[[x - low_x], [high_x - x]],
        fmt="D",
        color=ACCENT,
        markersize=5,
        capsize=3,
        linewidth=1.4,
        label="target",
    )
    if verified is not None:
        axes.plot(place, verified, "*", color=INK, markersize=10, markerfacecolor="white", label="verified")
    axes.set_title(f"optimum against {axis}")
    axes.set_xlabel(axis)
    _powers(axes.xaxis, [*values, target[axis]])
    _value_axis(axes.yaxis, fit.columns.tuned_one)
    axes.legend(loc="lower left")


def _moved_to(fit: Fit, axis: str, target: Mapping[str, float]) -> Array:
    """Each scale's optimum with its other axes taken to the target's values, along the law."""
    scales = [one.cell.axes for one in fit.bracketed]
    design = fit.law.design
    there = design.matrix([{**target, axis: scale[axis]} for scale in scales])
    shift: Array = (there - design.matrix(scales)) @ fit.law.coefficients
    return np.array([one.x for one in fit.bracketed]) + shift


def verification_panel(verification: Mapping[str, Any], tuned: str) -> str:
    """The target's own sweep with the prediction, its best, and the smallest scale's optimum."""
    points = [(point[tuned], point["loss"]) for point in verification["points"] if point["loss"] is not None]
    curve = Curve([value for value, _ in points], [loss for _, loss in points])
    marks = [
        ("predicted", verification["predicted"][tuned], ACCENT, "D"),
        ("its best", verification["best"][tuned], INK, "*"),
    ]
    if verification["unmoved"][tuned] is not None:
        marks.append(("smallest scale's", verification["unmoved"][tuned], COLOURS[4], "^"))

    def draw(axes: Axes) -> None:
        fine = np.linspace(curve.x[0], curve.x[-1], 300)
        axes.plot(fine, [curve.at(float(x)) for x in fine], color=FAINT, linewidth=1.2)
        axes.plot(curve.x, curve.y, "o", color=COLOURS[1], markersize=4)
        for label, value, colour, marker in marks:
            x = float(np.log2(value))
            if curve.x[0] <= x <= curve.x[-1]:
                axes.plot(x, curve.at(x), marker, color=colour, markersize=8, label=label, linestyle="none")
        axes.set_title(describe(verification["scale"]))
        axes.set_ylabel("loss, nats")
        _value_axis(axes.xaxis, tuned)
        axes.legend(loc="best")

    return _panel(draw)


def _value_axis(axis: Any, name: str) -> None:
    """Ticks at (half) powers of two: as powers along the bottom, as values up the side."""
    low, high = axis.get_view_interval()
    step = 0.5 if high - low < 3 else max(1, round((high - low) / 6))
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    vertical = axis.axis_name == "y"
    labels = [f"{2.0**tick:.2g}" if vertical else f"$2^{{{tick:g}}}$" for tick in ticks]
    axis.set_ticks(ticks, labels)
    axis.set_label_text(name)


def _powers(axis: Any, values: Sequence[float]) -> None:
    seen = sorted(set(values))
    if len(seen) > 6:
        seen = [seen[0], seen[len(seen) // 2], seen[-1]]
    axis.set_ticks(np.log2(seen), [f"{value:,.0f}" if value >= 1 else f"{value:g}" for value in seen])


def _panel(draw: Any) -> str:
    """One panel as SVG that scales with its place on the page; nothing in it reaches out."""
    with rc_context(STYLE):
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        draw(figure.add_subplot())
        text = _svg(figure)
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")


def _svg(figure: Figure) -> str:
    """The same figure is the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return buffer.getvalue()


def check_figure(check: Mapping[str, Any]) -> str:
    """A check's values against size, a panel a column, a line a module; of many modules the steepest ones are named.

    Args:
        check: `hptransfer.training.coordcheck.Check` as plain values.
    """
    columns, sizes = check["columns"], check["sizes"]
    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL_INCHES[0] * len(columns), PANEL_INCHES[1]), layout="constrained")
        for column, axes in enumerate(np.atleast_1d(figure.subplots(1, len(columns))).flat):
            rows = [row for row in check["rows"] if all(values[column] > 0 for values in row["values"])]
            if rows and rows[0]["slopes"]:
                rows.sort(key=lambda row: -abs(row["slopes"][column]))
            for rank, row in enumerate(rows):
                place = check["rows"].index(row)  # a module looks the same in every panel
                style = {
                    "marker": MARKERS[place % len(MARKERS)],
                    "ms": 4,
                    "lw": 1.2,
                    "color": COLOURS[place % len(COLOURS)],
                }
                label = f"{row['name']} ({row['slopes'][column]:+.2f})" if row["slopes"] else row["name"]
                named = {"label": label} if rank < NAMED else {"color": FAINT}
                axes.loglog(sizes, [values[column] for values in row["values"]], **{**style, **named})
            axes.set_yscale("log", base=2)
            low, high = axes.get_ylim()
            room = max(1.0, (FLAT_SPAN * low / high) ** 0.5)  # what is flat is to look flat
            axes.set_ylim(low / room, high * room)
            axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
            axes.set_xticks([], minor=True)
            axes.set(title=columns[column], xlabel=check["axis"], ylabel=check["what"] if not column else None)
            if rows:
                axes.legend(fontsize=7)
        return _svg(figure)
