"""How many jobs the cluster takes: of one array, of one user, and how many of ours may run at a time."""

from __future__ import annotations

import getpass
import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hptransfer.launchers.slurm.commands import CallError, SlurmCommands

T = TypeVar("T")
ARRAY = 1001  # SLURM's own default


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        array: tasks that one array may have.
        submit: jobs that the user may have in the queue; None without a limit.
    """

    array: int = ARRAY
    submit: int | None = None


def read_limits(calls: SlurmCommands, accounts: Collection[str], qualities: Collection[str]) -> Limits:
    """The limits of those accounts and qualities of service; of the user's own defaults where none are named.

    What cannot be read does not bind: a submission beyond a limit is refused, and tried again later.
    """
    return Limits(array=_array(calls), submit=_submit(calls, accounts, qualities))


def _array(calls: SlurmCommands) -> int:
    try:
        text = calls.run("scontrol", "show", "config")
    except CallError:
        return ARRAY
    pairs = re.findall(r"\bMaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", text)
    found = [int(number) for pair in pairs for number in pair if number]
    return max(1, min(found, default=ARRAY))


def _submit(calls: SlurmCommands, accounts: Collection[str], qualities: Collection[str]) -> int | None:
    user = getpass.getuser()
    fields = "format=Account,User,MaxSubmitJobs,GrpSubmitJobs,DefaultQOS"
    try:
        if not accounts:
            accounts = _table(calls, "show", "user", "where", f"name={user}", "format=DefaultAccount")[0][:1]
        rows = _table(calls, "show", "assoc", "where", f"account={','.join(accounts)}", fields)
        ours = [row for row in rows if row[1] in ("", user)]
        wanted = qualities or {row[4] for row in ours if row[1] and row[4]} or {"normal"}
        fields = "format=Name,MaxSubmitJobsPU,GrpSubmitJobs"
        services = _table(calls, "show", "qos", "where", f"name={','.join(wanted)}", fields)
    except (CallError, IndexError):
        return None
    numbers = [number for row in ours for number in row[2:4]] + [number for row in services for number in row[1:3]]
    return min((int(number) for number in numbers if number.isdigit()), default=None)


def _table(calls: SlurmCommands, *command: str) -> list[list[str]]:
    lines = calls.run("sacctmgr", "--noheader", "--parsable2", *command).splitlines()
    return [line.split("|") for line in lines if line]


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Parts of at most so many items, as equal as can be."""
    count = -(-len(items) // size)
    bounds = [len(items) * number // count for number in range(count + 1)] if count else []
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Of what may run at a time, how much each array gets: in proportion, at least one, no more than all together.

    An array that gets 0 cannot be submitted now.
    """
    left, rest, found = total, sum(sizes), []
    for size in sizes:
        share = min(left, size, max(1, round(left * size / rest)))
        found.append(share)
        left, rest = left - share, rest - size
    return found


def used_share(arrays: Iterable[tuple[int, int]]) -> int:
    """What arrays may run at a time, from the share and the open jobs of each."""
    return sum(min(share, jobs) for share, jobs in arrays)
