"""Limits on jobs: per array, per user, and on running jobs."""

from __future__ import annotations

import getpass
import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hptransfer.launchers.slurm.commands import CallError, SlurmCommands

Item = TypeVar("Item")
DEFAULT_ARRAY_SIZE = 1001  # SLURM's own default


@dataclass(frozen=True)
class Limits:
    """Limits of the cluster on submissions.

    Attributes:
        array: largest number of tasks in one array.
        submit: largest number of the user's jobs in the queue; None without a limit.
    """

    array: int = DEFAULT_ARRAY_SIZE
    submit: int | None = None


def read_limits(calls: SlurmCommands, accounts: Collection[str], qualities: Collection[str]) -> Limits:
    """Read the limits of these accounts and qualities of service.

    Where none are named, the user's defaults are read. An unreadable limit is ignored: a submission beyond it is
    refused, and is repeated later.
    """
    return Limits(array=_max_array_size(calls), submit=_max_submitted(calls, accounts, qualities))


def _max_array_size(calls: SlurmCommands) -> int:
    try:
        text = calls.run("scontrol", "show", "config")
    except CallError:
        return DEFAULT_ARRAY_SIZE
    pairs = re.findall(r"\bMaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", text)
    sizes = [int(number) for pair in pairs for number in pair if number]
    return max(1, min(sizes, default=DEFAULT_ARRAY_SIZE))


def _max_submitted(calls: SlurmCommands, accounts: Collection[str], qualities: Collection[str]) -> int | None:
    user = getpass.getuser()
    fields = "format=Account,User,MaxSubmitJobs,GrpSubmitJobs,DefaultQOS"
    try:
        if not accounts:
            accounts = _query_sacctmgr(calls, "show", "user", "where", f"name={user}", "format=DefaultAccount")[0][:1]
        rows = _query_sacctmgr(calls, "show", "assoc", "where", f"account={','.join(accounts)}", fields)
        associations = [row for row in rows if row[1] in ("", user)]
        names = qualities or {row[4] for row in associations if row[1] and row[4]} or {"normal"}
        fields = "format=Name,MaxSubmitJobsPU,GrpSubmitJobs"
        services = _query_sacctmgr(calls, "show", "qos", "where", f"name={','.join(names)}", fields)
    except (CallError, IndexError):
        return None
    numbers = [number for row in associations for number in row[2:4]] + [
        number for row in services for number in row[1:3]
    ]
    return min((int(number) for number in numbers if number.isdigit()), default=None)


def _query_sacctmgr(calls: SlurmCommands, *command: str) -> list[list[str]]:
    lines = calls.run("sacctmgr", "--noheader", "--parsable2", *command).splitlines()
    return [line.split("|") for line in lines if line]


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Split items into equal parts, each of at most `size` items."""
    count = -(-len(items) // size)
    bounds = [len(items) * number // count for number in range(count + 1)] if count else []
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide the tasks that may run concurrently among arrays of these sizes.

    Shares are proportional to the sizes, at least 1 each, and add up to at most `total`. An array with a share of 0
    cannot be submitted now.
    """
    free, remaining, result = total, sum(sizes), []
    for size in sizes:
        share = min(free, size, max(1, round(free * size / remaining)))
        result.append(share)
        free, remaining = free - share, remaining - size
    return result


def used_share(arrays: Iterable[tuple[int, int]]) -> int:
    """Return the tasks that arrays may run concurrently.

    Args:
        arrays: the share and the number of open jobs of each array.
    """
    return sum(min(share, jobs) for share, jobs in arrays)
