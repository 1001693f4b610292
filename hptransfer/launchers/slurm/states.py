"""Job states from accounting and the queue, with the causes of ends.

A state outside the table of end states is not an end: for UNKNOWN or a missing record, the launcher waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hptransfer.core.records import CANCELLED, KILLED, NODE_FAILURE, OUT_OF_MEMORY, PREEMPTED, TIME_LIMIT
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands

END_CAUSES: dict[str, str | None] = {
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
"""End states with the cause of each. A job in such a state does not continue unless it is requeued."""


@dataclass(frozen=True)
class SchedulerJob:
    """One job in the scheduler's records.

    Attributes:
        state: unabbreviated state, such as RUNNING.
        code: exit status as "exit code:signal"; empty if that is not known.
        seconds: elapsed time.
        reason: reason for waiting, if the job waits.
    """

    state: str
    code: str = ""
    node: str = ""
    seconds: int = 0
    reason: str = ""

    @property
    def ended(self) -> bool:
        """True if the job is in an end state."""
        return self.state in END_CAUSES


def full_state(text: str) -> str:
    """Return the state in "CANCELLED by 1000", "OUT_OF_ME+" or "RUNNING".

    An abbreviation that matches several end states, or none, is returned unchanged.
    """
    word = text.split(" ")[0].strip()
    if not word.endswith("+"):
        return word
    states = [state for state in END_CAUSES if state.startswith(word[:-1])]
    return states[0] if len(states) == 1 else word


def array_id(scheduler: str) -> str:
    """Return the array of a job: "12" for "12_3"."""
    return scheduler.partition("_")[0]


def ask_accounting(calls: SlurmCommands, arrays: Sequence[str]) -> dict[str, SchedulerJob] | None:
    """Return sacct's records of these arrays in one call; None if unreachable."""
    command = ("sacct", "--allocations", "--noheader", "--parsable2", "--starttime=1970-01-01")
    fields = "--format=JobID,State,ExitCode,NodeList,ElapsedRaw"
    try:
        return read_accounting(calls.run(*command, fields, f"--jobs={','.join(arrays)}"))
    except CallError:
        return None


def read_accounting(text: str) -> dict[str, SchedulerJob]:
    """Return the complete lines of sacct's answer, by job.

    The last line of a requeued job counts.
    """
    jobs: dict[str, SchedulerJob] = {}
    for job, state, code, nodes, seconds in _split_lines(text, 5):
        node = "" if nodes.startswith("None") else nodes
        record = SchedulerJob(full_state(state), code, node, int(seconds) if seconds.isdigit() else 0)
        jobs |= dict.fromkeys(expand_ids(job), record)
    return jobs


def ask_queue(calls: SlurmCommands, arrays: Sequence[str]) -> dict[str, SchedulerJob] | None:
    """Return squeue's records of these arrays; None if the controller is unreachable.

    Jobs that ended recently are included.
    """
    command = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r")
    try:
        return read_queue(calls.run(*command, f"--jobs={','.join(arrays)}"))
    except CallError as error:
        return {} if "Invalid job id" in str(error) else None  # none of them is in the queue any more


def read_queue(text: str) -> dict[str, SchedulerJob]:
    """Return the complete lines of squeue's answer, by job."""
    jobs: dict[str, SchedulerJob] = {}
    for job, state, node, reason in _split_lines(text, 4):
        record = SchedulerJob(full_state(state), node=node, reason="" if reason == "None" else reason)
        jobs |= dict.fromkeys(expand_ids(job), record)
    return jobs


def _split_lines(text: str, width: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", width - 1)]
        if len(fields) == width:
            yield fields


def expand_ids(job: str) -> list[str]:
    """Return the ids of a line's jobs: "12_[3-5,8%2]" denotes waiting array tasks."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if match is None:
        return [job]
    array, ranges = match.groups()
    ids = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        ids += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1)]
    return ids


def describe_end(job: SchedulerJob) -> str:
    """Return an end in one line: "FAILED, exit code 1 in SLURM"."""
    code, _, signal = job.code.partition(":")
    parts = [job.state]
    if code not in ("", "0"):
        parts.append(f"exit code {code}")
    if signal not in ("", "0"):
        parts.append(f"signal {signal}")
    return f"{', '.join(parts)} in SLURM"
