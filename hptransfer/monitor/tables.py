"""Progress for people: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hptransfer.core.records import DIVERGED, DONE, FAILED, PRUNED, VERIFY, Scale, short
from hptransfer.driver.progress import RUNNING, WAITING, Progress, ScaleProgress
from hptransfer.monitor.status import Status, explain_troubles
from hptransfer.planning.plan import Plan, num_devices

PLAIN_INTERVAL_S = 10.0
WATCH_S, WATCH_SHARE = 1.0, 4


def clock(seconds: float | None) -> str:
    """Seconds as people read them: 45s, 3m20s, 2h05m; "unknown" if nobody knows."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def headline(progress: Progress) -> str:
    """One line: trials by state and the time left."""
    finished = progress.count(DONE, DIVERGED, PRUNED, FAILED)
    parts = [f"{finished}/{progress.count()} trials", f"{progress.count(RUNNING)} running"]
    for state in (DIVERGED, PRUNED, FAILED):
        if progress.count(state):
            parts.append(f"{progress.count(state)} {state}")
    if progress.seconds_left is not None and progress.count(RUNNING, WAITING):
        parts.append(f"about {clock(progress.seconds_left)} left")
    return ", ".join(parts)


def table(progress: Progress) -> Table:
    """A row a scale."""
    columns = {DONE: DONE, RUNNING: "run", WAITING: "wait", DIVERGED: "div", PRUNED: PRUNED, FAILED: "fail"}
    if not progress.count(PRUNED):  # most sweeps stop nothing early
        del columns[PRUNED]
    grid = _grid([scale.scale for scale in progress.scales], [*columns.values(), "best loss", "at"])
    for scale in progress.scales:
        counts = [str(scale.states.get(state, 0) or "-") for state in columns]
        label = "verify" if scale.purpose == VERIFY else ""
        grid.add_row(label, *map(short, scale.scale.axes.values()), *counts, *_best(scale))
    return grid


def _grid(scales: Sequence[Scale], columns: Sequence[str]) -> Table:
    """An empty table: a label, a column an axis, then the given ones."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("")
    for column in (*(scales[0].axes if scales else ()), *columns):
        grid.add_column(column, justify="right")
    return grid


def _best(scale: ScaleProgress) -> tuple[str, str]:
    if scale.best is None or scale.best_loss is None:
        return "-", "-"
    return f"{scale.best_loss:.4f}", ", ".join(f"{key}={short(value)}" for key, value in scale.best.items())


def status_line(status: Status) -> str:
    """One line: the run, its trials by state, who drives it."""
    driver = status.driver
    driven = f"driven by process {driver['pid']} on {driver['host']}" if driver else "no driver runs"
    return f"{status.folder.path}: {headline(status.progress)}; {driven}"


def print_status(console: Console, status: Status, *, every: bool) -> None:
    """The line, a table of the scales, and why trials failed or wait."""
    console.print(status_line(status), highlight=False, markup=False, soft_wrap=True)
    console.print(table(status.progress))
    for line in _lines(status, every=every):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(status: Status, *, every: bool) -> list[str]:
    return [*([f"blocked: {status.blocked}"] if status.blocked else []), *explain_troubles(status, every=every)]


def _page(status: Status, *, every: bool, height: int | None = None) -> Group:
    """
    Args:
        height: lines that there is room for; None for all of them.
    """
    lines = _lines(status, every=every)
    if height is not None and len(lines) > height:
        lines = [*lines[: max(0, height - 1)], f"and {len(lines) - height + 1} lines more"]
    return Group(Text(status_line(status)), table(status.progress), *map(Text, lines))


def watch(console: Console, read: Callable[[], Status], *, every: bool) -> None:
    """Shows a status until nothing will change by itself: in place on a terminal, as lines elsewhere."""
    last = ""
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            began = time.monotonic()
            status = read()
            if live is not None:
                room = console.height - len(status.progress.scales) - 4
                live.update(_page(status, every=every, height=None if status.over else room), refresh=True)
            elif (line := status_line(status)) != last:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
                last = line
            if status.over:
                break
            time.sleep(max(WATCH_S, WATCH_SHARE * (time.monotonic() - began)))
    if live is None:
        print_status(console, status, every=every)


class Display:
    """Shows progress while a driver runs; a context manager, so that the terminal is left tidy."""

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
        """Shows the state now; plain lines appear when something changed, every ten seconds at most."""
        if self._live:
            grid = table(progress)
            grid.title, grid.title_justify = headline(progress), "left"
            self._live.update(grid)
            return
        line = headline(progress)
        due = time.monotonic() - self._last_time >= PLAIN_INTERVAL_S
        if line != self._last_line and (due or last):
            self._console.print(line, highlight=False, soft_wrap=True)
            self._last_line, self._last_time = line, time.monotonic()


def plan_table(plan: Plan, seconds: Mapping[Scale, float | None]) -> list[Table | str]:
    """What a sweep costs: a row a scale, the target, and the totals."""
    grid = _grid([plan.target], ["parameters", "FLOPs a trial", "trials", "FLOPs", "time"])
    for scale in plan.scales:
        size, trials = plan.sizes[scale], plan.num_trials(scale)
        costs = [f"{size.flops:.3g}", str(trials), f"{size.flops * trials:.3g}", clock(_times(trials, seconds[scale]))]
        grid.add_row("", *map(short, scale.axes.values()), f"{size.params:,}", *costs)
    target = plan.sizes[plan.target]
    costs = [f"{target.params:,}", f"{target.flops:.3g}", "", "", clock(seconds[plan.target])]
    grid.add_row("target", *map(short, plan.target.axes.values()), *costs)
    trials = sum(plan.num_trials(scale) for scale in plan.scales)
    return [
        grid,
        f"total: {trials} trials, {plan.flops():.3g} FLOPs, {_took(plan, seconds)}",
        f"share of the target's own training FLOPs: {plan.flops() / target.flops:.1%}",
    ]


def _took(plan: Plan, seconds: Mapping[Scale, float | None]) -> str:
    """What all trials take, as far as it is known from this machine or from finished trials."""
    known = {scale: one for scale in plan.scales if (one := seconds[scale]) is not None}
    if len(known) < len(plan.scales):
        return "device-hours unknown, as nothing was measured yet"
    launcher = plan.config.launcher
    busy_s = {scale: one * plan.num_trials(scale) for scale, one in known.items()}
    hours = sum(one * num_devices(plan, scale) for scale, one in busy_s.items()) / 3600
    slots = min(launcher.num_slots(plan.runner.gpus()), sum(plan.num_trials(scale) for scale in known))
    lasts = clock(max(sum(busy_s.values()) / slots, *known.values()))
    where = f"{slots} worker{'s' if slots > 1 else ''} of this machine"
    if launcher.is_cluster:
        where = f"nodes as fast as this machine, if {slots} trials run at a time"
    return f"{hours:.3g} device-hours; about {lasts} on {where}"


def _times(count: int, seconds: float | None) -> float | None:
    return None if seconds is None else count * seconds
