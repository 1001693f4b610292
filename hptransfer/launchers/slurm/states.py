"""What the scheduler says of jobs, by accounting and by the queue, and what a state means.

A state that is not in the table of ends is none: whoever reads UNKNOWN, or nothing at all, waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hptransfer.core.records import CANCELLED, KILLED, NODE_FAILURE, OUT_OF_MEMORY, PREEMPTED, TIME_LIMIT
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands

ENDS: dict[str, str | None] = {
    "BOOT_FAIL": NODE_FAILURE,
    "CANCELLED": CANCELLED,
    "COMPLETED": None,
    "DEADLINE": TIME_LIMIT,
    "FAILED": KILLED,
    "NODE_FAIL": NODE_FAILURE,
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "PREEMPTED": PREEMPTED,
    "TIMEOUT": TIME_LIMIT,
}
"""States after which a job does not go on by itself, unless the queue has it again, and what each is the cause of."""


@dataclass(frozen=True)
class SchedulerJob:
    """One job as the scheduler sees it.

    Attributes:
        state: such as RUNNING, in whole words.
        code: how it ended, as "exit code:signal"; empty if that is not known.
        seconds: how long it has run.
        reason: why it waits, if it does.
    """

    state: str
    code: str = ""
    node: str = ""
    seconds: int = 0
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDS


def whole_state(text: str) -> str:
    """The state in "CANCELLED by 1000", "OUT_OF_ME+" or "RUNNING"; as it is, if it is none of ours."""
    word = text.split(" ")[0].strip()
    if not word.endswith("+"):
        return word
    whole = [state for state in ENDS if state.startswith(word[:-1])]
    return whole[0] if len(whole) == 1 else word


def array_of(scheduler: str) -> str:
    """The array that a job is in: "12" for "12_3"."""
    return scheduler.partition("_")[0]


def ask_accounting(calls: SlurmCommands, arrays: Sequence[str]) -> dict[str, SchedulerJob] | None:
    """What sacct says of all jobs of these arrays in one call; None if it is away."""
    command = ("sacct", "--allocations", "--noheader", "--parsable2", "--starttime=1970-01-01")
    fields = "--format=JobID,State,ExitCode,NodeList,ElapsedRaw"
    try:
        return read_accounting(calls.run(*command, fields, f"--jobs={','.join(arrays)}"))
    except CallError:
        return None


def read_accounting(text: str) -> dict[str, SchedulerJob]:
    """Whole lines of sacct's answer, by job. Of a job that was requeued the last line counts."""
    found: dict[str, SchedulerJob] = {}
    for job, state, code, nodes, seconds in _rows(text, 5):
        node = "" if nodes.startswith("None") else nodes
        seen = SchedulerJob(whole_state(state), code, node, int(seconds) if seconds.isdigit() else 0)
        found |= dict.fromkeys(expand(job), seen)
    return found


def ask_queue(calls: SlurmCommands, arrays: Sequence[str]) -> dict[str, SchedulerJob] | None:
    """What squeue says of all jobs of these arrays, those that ended lately too; None if the controller is away."""
    command = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r")
    try:
        return read_queue(calls.run(*command, f"--jobs={','.join(arrays)}"))
    except CallError as error:
        return {} if "Invalid job id" in str(error) else None  # it knows none of them any more


def read_queue(text: str) -> dict[str, SchedulerJob]:
    """Whole lines of squeue's answer, by job."""
    found: dict[str, SchedulerJob] = {}
    for job, state, node, reason in _rows(text, 4):
        seen = SchedulerJob(whole_state(state), node=node, reason="" if reason == "None" else reason)
        found |= dict.fromkeys(expand(job), seen)
    return found


def _rows(text: str, width: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", width - 1)]
        if len(fields) == width:
            yield fields


def expand(job: str) -> list[str]:
    """Ids of the jobs that a line is about: "12_[3-5,8%2]" stands for those of an array that wait."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if match is None:
        return [job]
    array, ranges = match.groups()
    found = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1)]
    return found


def describe_end(seen: SchedulerJob) -> str:
    """One line about an end, such as "FAILED, exit code 1 (SLURM)"."""
    code, _, signal = seen.code.partition(":")
    parts = [seen.state]
    if code not in ("", "0"):
        parts.append(f"exit code {code}")
    if signal not in ("", "0"):
        parts.append(f"signal {signal}")
    return f"{', '.join(parts)} in SLURM"
