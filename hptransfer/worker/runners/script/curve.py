"""A script's curve: what it reports or prints, as points, one a step, on disk as they come."""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hptransfer.core.io import append_jsonl, read_jsonl, write_text
from hptransfer.worker.runners.script.config import Metric

# Of a longer curve so many points are kept once it is judged.
KEPT_POINTS = 500


class UnusableMetric(Exception):  # noqa: N818
    """What a script said of itself cannot be used; the message says why."""


class DivergedMetric(Exception):  # noqa: N818
    """The script said that it diverged, or its metric is not finite."""


class ScriptCurve:
    """Points by step. A step that is said again takes the place of what was said before.

    What an earlier attempt said of this step and of later ones is forgotten as soon as this one reaches them.
    """

    def __init__(self, path: Path, metric: Metric) -> None:
        self._path, self._metric = path, metric
        self._earlier = {row["step"]: row for row in read_jsonl(path)}
        self._points: dict[int, dict[str, Any]] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._rewrite = True  # an earlier attempt may have left a torn line

    def add(self, row: Mapping[str, Any]) -> None:
        """
        Raises:
            UnusableMetric: the row's metric is no number, or its step no whole one.
            DivergedMetric: it says so, or its metric is not finite.
        """
        step = self._step(row)
        numbers = {key: value for key, value in row.items() if _is_number(value)}
        point = self._points.get(step) or {"step": step, "tokens": None, "loss": None, "time": time.time()}
        point |= {key: value for key, value in numbers.items() if key not in ("step", "loss") and math.isfinite(value)}
        judged = row.get(self._metric.key)
        if judged is not None and not _is_number(judged):
            raise UnusableMetric(f"{self._metric.key!r} must be a number, got {judged!r}")
        finite = judged is None or math.isfinite(judged)
        if judged is not None and finite:
            point |= {"loss": float(judged)}
        self._put(step, point)
        if not finite or row.get("diverged") not in (None, False):
            raise DivergedMetric

    def _step(self, row: Mapping[str, Any]) -> int:
        step = row.get("step")
        if step is None:
            return max(self._steps(), default=0) + 1
        if not _is_number(step) or step != step // 1:
            raise UnusableMetric(f"'step' must be a whole number, got {step!r}")
        return int(step)

    def _steps(self) -> Iterator[int]:
        yield from self._earlier
        yield from self._points

    def _put(self, step: int, point: dict[str, Any]) -> None:
        kept = {key: row for key, row in self._earlier.items() if key < step}
        later = any(key >= step for key in self._points)
        self._rewrite |= later or len(kept) < len(self._earlier)
        self._earlier = kept
        self._points[step] = point
        self._unwritten.append(point)

    def write(self) -> None:
        """Brings the file up to what was added."""
        if self._rewrite:
            self._write(self.points)
        elif self._unwritten:
            append_jsonl(self._path, self._unwritten)
        self._unwritten, self._rewrite = [], False

    def _write(self, points: Iterable[Mapping[str, Any]]) -> None:
        write_text(self._path, "".join(json.dumps(point) + "\n" for point in points))

    def thin(self) -> None:
        """Leaves a long curve with points that are spread over it evenly, its last one among them."""
        points = self.points
        if len(points) > KEPT_POINTS:
            self._write(points[round(k * (len(points) - 1) / (KEPT_POINTS - 1))] for k in range(KEPT_POINTS))

    @property
    def points(self) -> list[dict[str, Any]]:
        """All points, in the order of steps."""
        found = {**self._earlier, **self._points}
        return [found[step] for step in sorted(found)]

    @property
    def losses(self) -> list[float]:
        return [point["loss"] for point in self.points if point["loss"] is not None]

    def judge(self) -> tuple[float, float | None]:
        """What the trial is judged by, and its standard error if it is a mean.

        Raises:
            UnusableMetric: the metric never came, or less often than it is the mean of.
        """
        losses, metric = self.losses, self._metric
        if not losses:
            raise UnusableMetric(_never_came(metric))
        if metric.reduce == "last":
            return losses[-1], None
        if metric.reduce == "minimum":
            return min(losses), None
        if len(losses) < metric.points:
            raise UnusableMetric(
                f"{metric.key!r} came {len(losses)} times, and run.metric is the mean of the last {metric.points}; "
                "report it more often, or set run.metric.points"
            )
        last = losses[-metric.points :]
        error = statistics.stdev(last) / math.sqrt(len(last)) if len(last) > 1 else None
        return statistics.fmean(last), error


def _never_came(metric: Metric) -> str:
    if metric.pattern is not None:
        return f"the metric never came: run.metric.pattern {metric.pattern!r} matched no line that it printed"
    return (
        f"the metric never came: no {metric.key!r} in the lines that it wrote to the file HPTRANSFER_METRICS; call "
        f"hptransfer.report(step=..., {metric.key}=...), or set run.metric.key or run.metric.pattern"
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max  # a longer one is no loss, nor a float
    return isinstance(value, float)


class ReportedRows:
    """Rows of the file that a script writes JSON lines to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")
        self._read = 0
        self._begun = b""

    def rows(self, *, last: bool) -> Iterator[Mapping[str, Any]]:
        """Those written since the last call.

        Args:
            last: nothing more is to come, so that a line without an end is one.

        Raises:
            UnusableMetric: a line is no JSON object, or the file is not all there any more.
        """
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._read:
                    raise UnusableMetric("the file HPTRANSFER_METRICS became shorter; open it to append to it")
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            raise UnusableMetric(
                "the file HPTRANSFER_METRICS was removed while the script ran; leave it there"
            ) from None
        self._read += len(content)
        *whole, self._begun = (self._begun + content).split(b"\n")
        for line in [*whole, self._begun] if last else whole:
            if line.strip():
                yield self._row(line, torn=line is self._begun)

    def _row(self, line: bytes, *, torn: bool) -> Mapping[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            shown = line.decode("utf-8", errors="replace")[:120]
            what = "a line that was cut off" if torn else "a line that is no JSON"
            raise UnusableMetric(f"the file HPTRANSFER_METRICS has {what}: {shown!r}") from None
        if not isinstance(row, dict):
            raise UnusableMetric(
                f'the file HPTRANSFER_METRICS must have lines such as {{"step": 1, "loss": 2.5}}, got {row!r}'
            )
        return row


class PrintedRows:
    """Rows of what a pattern finds in the lines that a script prints."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def rows(self, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        """
        Raises:
            UnusableMetric: a group other than `diverged` holds no number.
        """
        for line in lines:
            if match := self._pattern.search(line):
                groups = {key: text for key, text in match.groupdict().items() if text is not None}
                row: dict[str, Any] = {key: _number(text, line) for key, text in groups.items() if key != "diverged"}
                yield row | {"diverged": True} if "diverged" in groups else row


def _number(text: str, line: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UnusableMetric(f"run.metric.pattern finds {text!r} in {line[:120]!r}, which is no number") from None
