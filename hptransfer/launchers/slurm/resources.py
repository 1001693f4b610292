"""What a job asks the scheduler for: constants, rules over its numbers, or rows of a table by scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.formulas import Formula
from hptransfer.core.records import Job, Number

COUNTS = {"gpus": 0, "nodes": 1, "tasks": 1, "cpus": 1}
"""Resources that are counted, and the least of each."""
TEXTS = ("partition", "account", "qos", "constraint")
KEYS = (*COUNTS, "memory", "time", *TEXTS)
WHEN = "when"

MEMORY = re.compile(r"(\d+)([KMGT])B?", re.IGNORECASE)
MEBIBYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?")
WRITTEN = {"memory": MEMORY, "time": TIME}
COMPARISON = re.compile(r"(.+?)(<=|>=|==|!=|<|>)(.+)")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one job asks for; jobs that ask for the same go into one array.

    Attributes:
        gpus: of each node.
        tasks: on each node.
        cpus: of each task.
        memory_mib: of each node; None leaves it to the cluster.
        minutes: time limit; None leaves it to the partition.
    """

    gpus: int = 0
    nodes: int = 1
    tasks: int = 1
    cpus: int = 1
    memory_mib: int | None = None
    minutes: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None


def resolve_resources(
    settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], names: Mapping[str, Number], place: str
) -> Resources:
    """The resources of a job whose numbers are `names`: the settings, with what the first matching row says.

    Raises:
        ConfigError: a rule names what there is not, or gives no such amount.
    """
    values = {key: settings[key] for key in KEYS}
    for number, row in enumerate(rows):
        if WHEN not in row or condition_holds(str(row[WHEN]), names, f"{place}.by_scale[{number}].{WHEN}"):
            values |= {key: value for key, value in row.items() if key != WHEN}
            break
    found: dict[str, Any] = {key: _count(values[key], least, names, f"{place}.{key}") for key, least in COUNTS.items()}
    found |= {key: None if values[key] is None else str(values[key]) for key in TEXTS}
    return Resources(
        memory_mib=_amount(values["memory"], names, f"{place}.memory", parse_memory_mib, "1.5 (GiB) or 1500M"),
        minutes=_amount(values["time"], names, f"{place}.time", parse_minutes, "90 (minutes) or 1:30:00"),
        **found,
    )


def check_resources(settings: Mapping[str, Any], rows: Sequence[Any], place: str) -> None:
    """Raises ConfigError for a value that no job could be given, and for rules that are none."""
    _check_values({key: settings[key] for key in KEYS}, place)
    for number, row in enumerate(rows):
        where = f"{place}.by_scale[{number}]"
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} must be a row such as {{when: width >= 1024, gpus: 4}}, got {row!r}")
        for key in row:
            if key not in (WHEN, *KEYS):
                raise ConfigError(f"{where}: {unknown('key', str(key), (WHEN, *KEYS))}")
        if WHEN in row:
            comparison(str(row[WHEN]), f"{where}.{WHEN}")
        _check_values({key: value for key, value in row.items() if key != WHEN}, where)


def _check_values(values: Mapping[str, Any], place: str) -> None:
    for key, value in values.items():
        where = f"{place}.{key}"
        if key in TEXTS:
            check_line(value, where)
        elif isinstance(value, str):
            if not (key in WRITTEN and WRITTEN[key].fullmatch(value.strip())):
                Formula(value, where)
        elif isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ConfigError(f"{where} must be a number, or a rule such as '1 + params // 1e9', got {value!r}")
        elif key in COUNTS:
            if _count(value, COUNTS[key], {}, where) != value:
                raise ConfigError(f"{where} must be a whole number, got {value}; only what a rule gives is rounded up")
        elif key == "memory":
            _amount(value, {}, where, parse_memory_mib, "1.5 (GiB) or 1500M")
        else:
            _amount(value, {}, where, parse_minutes, "90 (minutes) or 1:30:00")


def check_line(value: Any, place: str) -> None:
    """Raises ConfigError unless a value fits on one line of a batch script."""
    text = str(value)
    if isinstance(value, list | Mapping) or not text.isprintable():
        raise ConfigError(f"{place} must be one line of plain text, got {text!r}")


def _count(value: Any, least: int, names: Mapping[str, Number], place: str) -> int:
    found = Formula(value, place).value(names) if isinstance(value, str) else value
    if found is None or found < least:
        raise ConfigError(f"{place} must be at least {least}, got {found}")
    return math.ceil(found)


def _amount(value: Any, names: Mapping[str, Number], place: str, read: Any, example: str) -> int | None:
    """An amount that may be given in the scheduler's notation, in whole units of `read`."""
    if value is None:
        return None
    found: int | None = read(value) if isinstance(value, str) else None
    if found is None:
        number = Formula(value, place).value(names) if isinstance(value, str) else value
        found = read(number)
    assert found is not None
    if found < 1:
        raise ConfigError(f"{place} must be above 0, such as {example}, got {value!r}")
    return found


def parse_memory_mib(value: str | Number) -> int | None:
    """Mebibytes of "16G" or of a number of gibibytes; None for another text."""
    if isinstance(value, int | float):
        return math.ceil(value * 1024)
    match = MEMORY.fullmatch(value.strip())
    return math.ceil(int(match.group(1)) * MEBIBYTES[match.group(2).upper()]) if match else None


def parse_minutes(value: str | Number) -> int | None:
    """Minutes of "1-12:00:00", "1:30:00", "30:00" or of a number of minutes; None for another text."""
    if isinstance(value, int | float):
        return math.ceil(value)
    match = TIME.fullmatch(value.strip())
    if match is None:
        return None
    days, first, second, third = match.groups()
    if days is not None or third is not None:  # hours first
        return math.ceil(int(days or 0) * 1440 + int(first) * 60 + int(second) + int(third or 0) / 60)
    return math.ceil(int(first) + int(second) / 60)


def comparison(text: str, place: str) -> list[tuple[Formula, str, Formula]]:
    """The parts of "width >= 1024 and tokens < 1e9".

    Raises:
        ConfigError: it is no such condition.
    """
    parts = []
    for part in re.split(r"\s+and\s+", text.strip()):
        match = COMPARISON.fullmatch(part)
        if match is None:
            raise ConfigError(f"{place} must compare numbers, such as 'width >= 1024 and tokens < 1e9', got {text!r}")
        left, sign, right = match.groups()
        parts.append((Formula(left.strip(), place), sign, Formula(right.strip(), place)))
    return parts


def condition_holds(text: str, names: Mapping[str, Number], place: str) -> bool:
    """Whether a condition is met."""
    for left, sign, right in comparison(text, place):
        one, other = left.value(names), right.value(names)
        met = {
            "<": one < other,
            "<=": one <= other,
            ">": one > other,
            ">=": one >= other,
            "==": one == other,
            "!=": one != other,
        }
        if not met[sign]:
            return False
    return True


def job_names(job: Job, tokens: Number | None) -> dict[str, Number]:
    """What rules may name: the scale's axes, and what the job's cost is known by."""
    known: dict[str, Number] = {"params": job.params, "flops": job.flops, "trials": len(job.trials)}
    known |= {"attempt": job.attempt}
    if job.seconds is not None:
        known["seconds"] = job.seconds
    if tokens is not None:
        known["tokens"] = tokens
    return known | dict(job.scale.axes)


def limit_minutes(seconds: float, *, margin: float, least: int) -> int:
    """A time limit for a job that is to take so long; on a ladder of steps, so that jobs share arrays."""
    steps = math.ceil(2 * math.log2(max(1.0, margin * seconds / 60 / least)))
    return math.ceil(least * 2 ** (steps / 2))
