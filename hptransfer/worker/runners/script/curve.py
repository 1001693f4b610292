"""Curve of a script: one point per reported or printed step.

Points are written to disk as they arrive.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.core.io import append_jsonl, read_jsonl, write_bytes, write_text
from hptransfer.core.records import CURVE_KEYS, Number
from hptransfer.worker.runners.script.config import Metric

# Longer curves are thinned to this number of points at the end.
MAX_CURVE_POINTS = 500
# The first printed lines that a pattern did not match, as its message shows them.
SHOWN_LINES, SHOWN_CHARS = 3, 120
# Stores of metrics hold steps in 64 bits.
MAX_STEP = 2**63 - 1
BEST: Mapping[str, Callable[[Iterable[float]], float]] = {"minimum": min, "maximum": max}


class UnusableMetric(Exception):  # noqa: N818
    """Error of an unusable metric; the message is the reason."""


class DivergedMetric(Exception):  # noqa: N818
    """Signal of a divergence, reported or by a non-finite metric."""


class ScriptCurve:
    """Points of a curve by step.

    A step that is reported again replaces the earlier point. When this attempt reaches a step, the points of an earlier
    attempt at this step and later ones are dropped.
    """

    def __init__(self, path: Path, metric: Metric) -> None:
        self._path, self._metric = path, metric
        self._earlier = {row["step"]: row for row in read_jsonl(path)}
        self._points: dict[int, dict[str, Any]] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._rewrite = True  # an earlier attempt may have left a torn line

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row to the curve.

        A number other than the metric, under the name of one of the curve's own fields, is kept as "reported_<name>".

        Raises:
            UnusableMetric: the row's metric is not a number, its step is not a whole number, or `diverged` is neither
                true nor false.
            DivergedMetric: the row reports divergence, or its metric is not finite.
        """
        step, diverged = self._step(row), self._diverged(row)
        point = self._points.get(step) or {"step": step, "tokens": None, "loss": None, "time": time.time()}
        point |= self._numbers(row)
        if self._metric.key in row:
            loss = _parse_metric(self._metric.key, row[self._metric.key])
            diverged = diverged or not math.isfinite(loss)
            point |= {"loss": loss} if math.isfinite(loss) else {}
        self._insert(step, point)
        if diverged:
            raise DivergedMetric

    def _numbers(self, row: Mapping[str, Any]) -> dict[str, Number]:
        """Return the finite numbers of a row by their names."""
        read_elsewhere = {"step", "diverged"} | (CURVE_KEYS & {self._metric.key})
        return {
            f"reported_{key}" if key in CURVE_KEYS else key: value
            for key, value in row.items()
            if key not in read_elsewhere and _is_number(value) and math.isfinite(value)
        }

    def _diverged(self, row: Mapping[str, Any]) -> bool:
        diverged = row.get("diverged", False)
        if diverged not in (None, False, True):
            raise UnusableMetric(f"'diverged' must be true or false, got {diverged!r}")
        return bool(diverged)

    def _step(self, row: Mapping[str, Any]) -> int:
        step = row.get("step")
        if step is None:
            return max(self._steps(), default=0) + 1
        if not _is_number(step) or step != step // 1 or abs(step) > MAX_STEP:
            raise UnusableMetric(f"'step' must be a whole number, got {step!r}; it has at most 64 bits")
        return int(step)

    def _steps(self) -> Iterator[int]:
        yield from self._earlier
        yield from self._points

    def _insert(self, step: int, point: dict[str, Any]) -> None:
        kept = {key: row for key, row in self._earlier.items() if key < step}
        later = any(key >= step for key in self._points)
        self._rewrite |= later or len(kept) < len(self._earlier)
        self._earlier = kept
        self._points[step] = point
        self._unwritten.append(point)

    def write(self) -> None:
        """Write the added points to the file."""
        if self._rewrite:
            self._write(self.points)
        elif self._unwritten:
            append_jsonl(self._path, self._unwritten)
        self._unwritten, self._rewrite = [], False

    def _write(self, points: Iterable[Mapping[str, Any]]) -> None:
        write_text(self._path, "".join(json.dumps(point) + "\n" for point in points))

    def thin(self) -> None:
        """Reduce a long curve to evenly spaced points, including the last one."""
        points = self.points
        if len(points) > MAX_CURVE_POINTS:
            self._write(points[round(k * (len(points) - 1) / (MAX_CURVE_POINTS - 1))] for k in range(MAX_CURVE_POINTS))

    @property
    def points(self) -> list[dict[str, Any]]:
        """All points, in the order of steps."""
        points = {**self._earlier, **self._points}
        return [points[step] for step in sorted(points)]

    @property
    def losses(self) -> list[float]:
        """Losses of all points that have one."""
        return [point["loss"] for point in self.points if point["loss"] is not None]

    def final_loss(self) -> tuple[float, float | None]:
        """Return the final loss, and its standard error of a mean.

        Raises:
            UnusableMetric: the metric was reported less often than the mean requires.
        """
        losses, metric = self.losses, self._metric
        if metric.reduce == "last":
            return losses[-1], None
        if metric.reduce in BEST:
            return BEST[metric.reduce](losses), None
        if len(losses) < metric.points:
            raise UnusableMetric(
                f"{metric.key!r} was reported {len(losses)} times, and run.metric is the mean of the last "
                f"{metric.points}; report it more often, or set run.metric.points"
            )
        last = losses[-metric.points :]
        error = statistics.stdev(last) / math.sqrt(len(last)) if len(last) > 1 else None
        return statistics.fmean(last), error


def missing_metric(metric: Metric, unmatched: Sequence[str]) -> str:
    """Return the reason of a metric that was never reported.

    Args:
        unmatched: printed lines that did not match the metric's pattern.
    """
    if metric.pattern is not None:
        lines = ", ".join(f"'{line}'" for line in unmatched)
        printed = f"; the first were {lines}" if lines else ", as nothing was printed"
        return f"the metric was never reported: run.metric.pattern '{metric.pattern}' matched no printed line{printed}"
    return (
        f"the metric was never reported: no {metric.key!r} in the lines of the file HPTRANSFER_METRICS; call "
        f"hptransfer.report(step=..., {metric.key}=...), or set run.metric.key or run.metric.pattern"
    )


def _parse_metric(key: str, value: Any) -> float:
    """Return the metric's value; NaN or infinite where the script's was.

    JSON has neither: writers make null of them, or text such as "NaN".
    """
    if value is None:
        return math.nan
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            if not math.isfinite(number := float(value)):
                return number
    if not _is_number(value):
        raise UnusableMetric(f"{key!r} must be a number, got {value!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max  # a larger one cannot be a float
    return isinstance(value, float)


BARE_NUMBER = re.compile(rb"(?<=[:\s])[-+]?(?:nan|inf|infinity)(?=\s*[,}])")
"""NaN and infinity as C prints them; JSON has neither."""


class ReportedRows:
    """Reader of the file to which a script writes JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        write_bytes(path, b"")
        self._bytes_read = 0
        self._partial_line = b""

    def rows(self, *, last: bool) -> Iterator[Mapping[str, Any]]:
        """Yield the rows written since the last call.

        Args:
            last: true if the script has ended, so that a line without a newline is complete.

        Raises:
            UnusableMetric: a line is not a JSON object, or the file was shortened or removed.
        """
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._bytes_read:
                    raise UnusableMetric("the file HPTRANSFER_METRICS became shorter; open it to append to it")
                file.seek(self._bytes_read)
                content = file.read()
        except FileNotFoundError:
            raise UnusableMetric(
                "the file HPTRANSFER_METRICS was removed while the script ran; leave it there"
            ) from None
        self._bytes_read += len(content)
        *lines, self._partial_line = (self._partial_line + content).split(b"\n")
        for line in [*lines, self._partial_line] if last else lines:
            if line.strip():
                yield self._row(line, torn=line is self._partial_line)

    def _row(self, line: bytes, *, torn: bool) -> Mapping[str, Any]:
        try:
            row = json.loads(BARE_NUMBER.sub(rb'"\g<0>"', line))
        except ValueError:
            shown = line.decode("utf-8", errors="replace")[:120]
            fault = "a line that was cut off" if torn else "a line that is not JSON"
            raise UnusableMetric(f"the file HPTRANSFER_METRICS has {fault}: {shown!r}") from None
        if not isinstance(row, dict):
            raise UnusableMetric(
                f'the file HPTRANSFER_METRICS must have lines such as {{"step": 1, "loss": 2.5}}, got {row!r}'
            )
        return row


class PrintedRows:
    """Reader of the lines that a script prints, by a pattern.

    Attributes:
        unmatched: the first lines that did not match, in short.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)
        self.unmatched: list[str] = []

    def rows(self, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        """Yield a row for each line that matches the pattern.

        Raises:
            UnusableMetric: a group other than `diverged` does not match a number.
        """
        for line in lines:
            if match := self._pattern.search(line):
                groups = {key: text for key, text in match.groupdict().items() if text is not None}
                row: dict[str, Any] = {
                    key: _parse_number(text, line) for key, text in groups.items() if key != "diverged"
                }
                yield row | {"diverged": True} if "diverged" in groups else row
            elif len(self.unmatched) < SHOWN_LINES and line.strip():
                self.unmatched.append(line.strip()[:SHOWN_CHARS])


def _parse_number(text: str, line: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UnusableMetric(f"run.metric.pattern finds {text!r} in {line[:120]!r}, which is not a number") from None
