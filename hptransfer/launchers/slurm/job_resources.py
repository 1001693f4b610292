"""Resources of a job: constants, rules, or a table by scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.formulas import Formula
from hptransfer.core.records import Job, Number

MINIMUM_COUNTS = {"gpus": 0, "nodes": 1, "tasks": 1, "cpus": 1}
"""Smallest value of each resource that is a count."""
TEXT_KEYS = ("partition", "account", "qos", "constraint")
RESOURCE_KEYS = (*MINIMUM_COUNTS, "memory", "time", *TEXT_KEYS)
CONDITION_KEY = "when"
LARGEST_AMOUNT = 2**31 - 1
"""Largest count, number of minutes and number of mebibytes."""
TIME_EXAMPLE = "90 (minutes), '1:30:00' or '1-12:00:00'"
MEMORY_EXAMPLE = "1.5 (GiB) or 1500M"

MEMORY_NOTATION = re.compile(r"(\d+)([KMGT])B?", re.IGNORECASE | re.ASCII)
MEBIBYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
# As SLURM reads them: [DAYS-]HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES] and MINUTES:SECONDS.
TIME_NOTATION = re.compile(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?|(\d+)-(\d+)", re.ASCII)
NOTATIONS = {"memory": MEMORY_NOTATION, "time": TIME_NOTATION}
COMPARISON = re.compile(r"(.+?)(<=|>=|==|!=|<|>)(.+)")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resource request of one job; jobs with equal requests share an array.

    Attributes:
        gpus: GPUs per node.
        tasks: tasks per node.
        cpus: cores per task.
        memory_mib: mebibytes per node; None for the cluster's default.
        minutes: time limit; None for the partition's default.
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
    """Return the resources of a job whose numbers are `names`.

    The first matching row overrides the settings.

    Raises:
        ConfigError: a rule uses an unknown name, or its value is not a valid amount.
    """
    values = {key: settings[key] for key in RESOURCE_KEYS}
    for number, row in enumerate(rows):
        if CONDITION_KEY not in row or condition_holds(
            str(row[CONDITION_KEY]), names, f"{place}.by_scale[{number}].{CONDITION_KEY}"
        ):
            values |= {key: value for key, value in row.items() if key != CONDITION_KEY}
            break
    plain: dict[str, Any] = {
        key: _count(values[key], least, names, f"{place}.{key}") for key, least in MINIMUM_COUNTS.items()
    }
    plain |= {key: None if values[key] is None else str(values[key]) for key in TEXT_KEYS}
    return Resources(
        memory_mib=_amount(values["memory"], names, f"{place}.memory", parse_memory_mib, MEMORY_EXAMPLE),
        minutes=_amount(values["time"], names, f"{place}.time", parse_minutes, TIME_EXAMPLE),
        **plain,
    )


def check_resources(settings: Mapping[str, Any], rows: Sequence[Any], place: str) -> None:
    """Raise ConfigError for impossible values and malformed rules."""
    _check_values({key: settings[key] for key in RESOURCE_KEYS}, place)
    for number, row in enumerate(rows):
        where = f"{place}.by_scale[{number}]"
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} must be a row such as {{when: width >= 1024, gpus: 4}}, got {row!r}")
        for key in row:
            if key not in (CONDITION_KEY, *RESOURCE_KEYS):
                raise ConfigError(f"{where}: {unknown('key', str(key), (CONDITION_KEY, *RESOURCE_KEYS))}")
        if CONDITION_KEY in row:
            parse_condition(str(row[CONDITION_KEY]), f"{where}.{CONDITION_KEY}")
        _check_values({key: value for key, value in row.items() if key != CONDITION_KEY}, where)


def _check_values(values: Mapping[str, Any], place: str) -> None:
    for key, value in values.items():
        where = f"{place}.{key}"
        if key in TEXT_KEYS:
            check_line(value, where)
        elif isinstance(value, str):
            if key in NOTATIONS and NOTATIONS[key].fullmatch(value.strip()):
                continue
            if key == "time" and ":" in value:
                raise ConfigError(f"{where} must be a time, such as {TIME_EXAMPLE}, got {value!r}")
            Formula(value, where)
        elif isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ConfigError(f"{where} must be a number, or a rule such as '1 + params // 1e9', got {value!r}")
        elif key in MINIMUM_COUNTS:
            if _count(value, MINIMUM_COUNTS[key], {}, where) != value:
                raise ConfigError(f"{where} must be a whole number, got {value}; only what a rule gives is rounded up")
        elif key == "memory":
            _amount(value, {}, where, parse_memory_mib, MEMORY_EXAMPLE)
        else:
            _amount(value, {}, where, parse_minutes, TIME_EXAMPLE)


def check_line(value: Any, place: str) -> None:
    """Raise ConfigError unless a value is one line of plain text."""
    text = str(value)
    if isinstance(value, list | Mapping) or not text.isprintable():
        raise ConfigError(f"{place} must be one line of plain text, got {text!r}")


def _count(value: Any, least: int, names: Mapping[str, Number], place: str) -> int:
    count = Formula(value, place).value(names) if isinstance(value, str) else value
    if count is None or not least <= count <= LARGEST_AMOUNT:  # NaN is not
        raise ConfigError(f"{place} must be at least {least} and at most {LARGEST_AMOUNT}, got {count}")
    return math.ceil(count)


def _amount(value: Any, names: Mapping[str, Number], place: str, read: Any, example: str) -> int | None:
    """Return an amount in whole units of `read`.

    The value may be a number, a rule or text in the scheduler's notation.
    """
    if value is None:
        return None
    amount: int | None = read(value) if isinstance(value, str) else None
    if amount is None:
        number = Formula(value, place).value(names) if isinstance(value, str) else value
        amount = read(number) if 0 < number <= LARGEST_AMOUNT else 0  # NaN is not
    assert amount is not None
    if not 1 <= amount <= LARGEST_AMOUNT:
        raise ConfigError(f"{place} must be above 0 and at most {LARGEST_AMOUNT}, such as {example}, got {value!r}")
    return amount


def parse_memory_mib(value: str | Number) -> int | None:
    """Return the mebibytes of "16G" or of a number of gibibytes.

    It is None for any other text.
    """
    if isinstance(value, int | float):
        return math.ceil(value * 1024)
    match = MEMORY_NOTATION.fullmatch(value.strip())
    return math.ceil(int(match.group(1)) * MEBIBYTES[match.group(2).upper()]) if match else None


def parse_minutes(value: str | Number) -> int | None:
    """Return the minutes of "1-12:00:00", "1-12", "1:30:00", "30:00" or a number.

    A number is in minutes. The result is None for any other text.
    """
    if isinstance(value, int | float):
        return math.ceil(value)
    match = TIME_NOTATION.fullmatch(value.strip())
    if match is None:
        return None
    days, first, second, third, whole_days, hours = match.groups()
    if whole_days is not None:
        return int(whole_days) * 1440 + int(hours) * 60
    if days is not None or third is not None:  # hours first
        return math.ceil(int(days or 0) * 1440 + int(first) * 60 + int(second) + int(third or 0) / 60)
    return math.ceil(int(first) + int(second) / 60)


def parse_condition(text: str, place: str) -> list[tuple[Formula, str, Formula]]:
    """Return the comparisons of a condition.

    An example is "width >= 1024 and tokens < 1e9".

    Raises:
        ConfigError: the text is not a condition of this form.
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
    """Test if a condition is met."""
    for left, sign, right in parse_condition(text, place):
        first, second = left.value(names), right.value(names)
        met = {
            "<": first < second,
            "<=": first <= second,
            ">": first > second,
            ">=": first >= second,
            "==": first == second,
            "!=": first != second,
        }
        if not met[sign]:
            return False
    return True


def job_names(job: Job, tokens: Number | None) -> dict[str, Number]:
    """Return the names that rules may use: scale axes and job costs."""
    known: dict[str, Number] = {"params": job.params, "flops": job.flops, "trials": len(job.trials)}
    known |= {"attempt": job.attempt}
    if job.seconds is not None:
        known["seconds"] = job.seconds
    if tokens is not None:
        known["tokens"] = tokens
    return known | dict(job.scale.axes)


def limit_minutes(seconds: float, *, margin: float, least: int) -> int:
    """Return the time limit in minutes for an estimated time.

    Limits are rounded up to powers of the square root of 2, so that jobs share arrays.

    Args:
        margin: limit over estimate.
        least: smallest limit, in minutes.
    """
    steps = math.ceil(2 * math.log2(max(1.0, margin * seconds / 60 / least)))
    return math.ceil(least * 2 ** (steps / 2))
