"""Progress and cost tables: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hptransfer.core.errors import printable
from hptransfer.core.records import (
    CANCELLED,
    DIVERGED,
    DONE,
    FAILED,
    PRUNED,
    SWEEP,
    Number,
    Scale,
    format_distinct,
    short,
)
from hptransfer.driver.progress import ENDED_STATES, TRIAL_RUNNING, TRIAL_WAITING, Progress, ScaleProgress
from hptransfer.monitor.status import Status, explain_troubles
from hptransfer.planning.plan import Plan, num_devices

PLAIN_INTERVAL_S = 10.0
WATCH_S, WATCH_SHARE = 1.0, 4


def clock(seconds: float | None) -> str:
    """Format seconds as 45s, 3m20s or 2h05m; None as "unknown"."""
    if seconds is None:
        return "unknown"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded}s"
    if rounded < 3600:
        return f"{rounded // 60}m{rounded % 60:02d}s"
    return f"{rounded // 3600}h{rounded % 3600 // 60:02d}m"


def headline(progress: Progress) -> str:
    """Return one line with the trials by state and the time left."""
    finished = progress.count(*ENDED_STATES)
    parts = [f"{finished}/{progress.count()} trials", f"{progress.count(TRIAL_RUNNING)} running"]
    for state in ENDED_STATES[1:]:
        if progress.count(state):
            parts.append(f"{progress.count(state)} {state}")
    if progress.seconds_left is not None and progress.count(TRIAL_RUNNING, TRIAL_WAITING):
        left = f"about {clock(progress.seconds_left)} left"
        parts.append(left if progress.seconds_left else "longer than the estimate")
    return ", ".join(parts)


def progress_table(progress: Progress) -> Table:
    """Return a table of progress with one row per scale."""
    columns = {DONE: DONE, TRIAL_RUNNING: "run", TRIAL_WAITING: "wait", DIVERGED: "div", PRUNED: PRUNED, FAILED: "fail"}
    columns |= {CANCELLED: CANCELLED}
    for state in (PRUNED, CANCELLED):  # most sweeps have none
        if not progress.count(state):
            del columns[state]
    scales = [scale.scale for scale in progress.scales]
    table, axis_cells = _empty_table(scales, [*columns.values(), f"best {progress.metric}", "at"]), _axis_cells(scales)
    for scale in progress.scales:
        counts = [str(scale.states.get(state, 0) or "-") for state in columns]
        label = "" if scale.purpose == SWEEP else scale.purpose
        table.add_row(label, *axis_cells(scale.scale), *counts, *_best(scale))
    return table


def _axis_cells(scales: Sequence[Scale]) -> Callable[[Scale], list[str]]:
    """Return a function that formats a scale; distinct scales print differently."""
    values: dict[str, list[Number]] = {}
    for scale in scales:
        for axis, value in scale.axes.items():
            values.setdefault(axis, []).append(value)
    shown = {axis: format_distinct(of_axis) for axis, of_axis in values.items()}
    return lambda scale: [shown[axis][value] for axis, value in scale.axes.items()]


def _empty_table(scales: Sequence[Scale], columns: Sequence[str]) -> Table:
    """Return an empty table with columns for label, axes and values."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in (*(scales[0].axes if scales else ()), *columns):
        table.add_column(escape(printable(column)), justify="right")
    return table


def _best(scale: ScaleProgress) -> tuple[str, str]:
    if scale.best is None or scale.best_loss is None:
        return "-", "-"
    tuned = ", ".join(f"{key}={short(value)}" for key, value in scale.best.items())
    return f"{scale.best_loss:.4f}", escape(printable(tuned))


def status_line(status: Status) -> str:
    """Return one line with the run, its trials and its driver."""
    driver = status.driver
    driven = f"driven by process {driver['pid']} on {driver['host']}" if driver else "no driver runs"
    return printable(f"{status.folder.path}: {headline(status.progress)}; {driven}")


def print_status(console: Console, status: Status, *, every: bool) -> None:
    """Print a status: its line, its scales, and its troubles."""
    console.print(status_line(status), highlight=False, markup=False, soft_wrap=True)
    console.print(progress_table(status.progress))
    for line in _trouble_lines(status, every=every):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _trouble_lines(status: Status, *, every: bool) -> list[str]:
    blocked = [f"blocked: {status.blocked}"] if status.blocked else []
    return [printable(line) for line in (*blocked, *explain_troubles(status, every=every))]


def _page(status: Status, *, every: bool, height: int | None = None) -> Group:
    """Return the whole status for a terminal.

    Args:
        height: most lines about trials; None for all of them.
    """
    lines = _trouble_lines(status, every=every)
    if height is not None and len(lines) > height:
        lines = [*lines[: max(0, height - 1)], f"and {len(lines) - height + 1} lines more"]
    return Group(Text(status_line(status)), progress_table(status.progress), *map(Text, lines))


def watch(console: Console, read: Callable[[], Status], *, every: bool) -> None:
    """Show a status until it is final.

    On a terminal it is updated in place; elsewhere changes are printed as lines.
    """
    last = ""
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            began = time.monotonic()
            status = read()
            if live is not None:
                height = console.height - len(status.progress.scales) - 4
                live.update(_page(status, every=every, height=None if status.is_final else height), refresh=True)
            elif (line := status_line(status)) != last:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
                last = line
            if status.is_final:
                break
            time.sleep(max(WATCH_S, WATCH_SHARE * (time.monotonic() - began)))
    if live is None:
        print_status(console, status, every=every)


class Display:
    """Display of progress while a driver runs.

    A context manager, so that the terminal is restored at the end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._last_line = ""
        self._last_time = float("-inf")

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Show the current progress.

        Without a terminal a line is printed if it has changed, at most every ten seconds.

        Args:
            last: print a changed line at once.
        """
        if self._live:
            grid = progress_table(progress)
            grid.title, grid.title_justify = headline(progress), "left"
            self._live.update(grid)
            return
        line = headline(progress)
        due = time.monotonic() - self._last_time >= PLAIN_INTERVAL_S
        if line != self._last_line and (due or last):
            self._console.print(line, highlight=False, soft_wrap=True)
            self._last_line, self._last_time = line, time.monotonic()


def plan_table(plan: Plan, seconds: Mapping[Scale, float | None]) -> list[Table | str]:
    """Return the cost table of a sweep and its totals."""
    scales = [*plan.scales, plan.target]
    table, axis_cells = (
        _empty_table(scales, ["parameters", "FLOPs a trial", "trials", "FLOPs", "time"]),
        _axis_cells(scales),
    )
    for scale in plan.scales:
        size, trials = plan.sizes[scale], plan.num_trials(scale)
        costs = [
            f"{size.flops:.3g}",
            str(trials),
            f"{size.flops * trials:.3g}",
            clock(_total_s(trials, seconds[scale])),
        ]
        table.add_row("", *axis_cells(scale), f"{size.params:,}", *costs)
    target = plan.sizes[plan.target]
    costs = [f"{target.params:,}", f"{target.flops:.3g}", "", "", clock(seconds[plan.target])]
    table.add_row("target", *axis_cells(plan.target), *costs)
    trials = sum(plan.num_trials(scale) for scale in plan.scales)
    return [
        table,
        f"total: {trials} trials, {plan.flops():.3g} FLOPs, {_total_time(plan, seconds)}",
        f"cost: {plan.flops() / target.flops:.1%} of the target's own training FLOPs",
        *_target_notes(plan),
    ]


def _target_notes(plan: Plan) -> list[str]:
    """Return a note if the target is inside the sweep's scales."""
    if plan.target in plan.scales:
        return [f"note: the target {plan.target.name} is one of the sweep's scales, so that it is tuned directly"]
    axes = {axis: [scale.axes[axis] for scale in plan.scales] for axis in plan.target.axes}
    if all(value <= max(axes[axis]) for axis, value in plan.target.axes.items()):
        ranges = ", ".join(f"{axis} {short(min(values))} to {short(max(values))}" for axis, values in axes.items())
        return [f"note: the target {plan.target.name} lies inside the sweep's scales ({ranges})"]
    return []


def _total_time(plan: Plan, seconds: Mapping[Scale, float | None]) -> str:
    """Return device-hours and duration of all trials, if measured."""
    trial_seconds = {scale: trial_s for scale in plan.scales if (trial_s := seconds[scale]) is not None}
    if len(trial_seconds) < len(plan.scales):
        return "device-hours unknown, as nothing was measured yet"
    launcher = plan.config.launcher
    busy_s = {scale: trial_s * plan.num_trials(scale) for scale, trial_s in trial_seconds.items()}
    hours = sum(scale_s * num_devices(plan, scale) for scale, scale_s in busy_s.items()) / 3600
    slots = min(launcher.num_slots(plan.runner.gpus()), sum(plan.num_trials(scale) for scale in trial_seconds))
    duration = clock(max(sum(busy_s.values()) / slots, *trial_seconds.values()))
    workers = f"{slots} worker{'s' if slots > 1 else ''} of this machine"
    if launcher.is_cluster:
        workers = f"nodes as fast as this machine, if {slots} trials run at a time"
    return f"{hours:.3g} device-hours; about {duration} on {workers}"


def _total_s(count: int, seconds: float | None) -> float | None:
    return None if seconds is None else count * seconds
