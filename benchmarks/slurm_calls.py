"""Count of calls of SLURM's commands.

Programs of the same names, put first in PATH, record each call and pass it on.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("sbatch", "sacct", "sacctmgr", "scancel", "scontrol", "squeue", "srun")
# One short line, appended at once, so that concurrent calls do not mix.
PROGRAM = '#!/bin/bash\necho "$EPOCHREALTIME {command}" >> {log}\nexec {program} "$@"\n'


@dataclass(frozen=True)
class Call:
    """Call of a command, with its time in seconds since 1970."""

    time: float
    command: str


def counted(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose calls are recorded in the folder.

    So are the calls of jobs that are submitted from it.
    """
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for command in COMMANDS:
        program = shutil.which(command, path=environment["PATH"])
        if program is None:
            raise SystemExit(f"{command} is not in PATH; install SLURM's packages (see tests/slurm/cluster.py)")
        (programs / command).write_text(PROGRAM.format(command=command, log=folder / "calls", program=program))
        (programs / command).chmod(0o755)
    (folder / "calls").touch()
    return {**environment, "PATH": f"{programs}{os.pathsep}{environment['PATH']}"}


def read_calls(folder: Path) -> list[Call]:
    """Return the recorded calls in order of time."""
    rows = (line.split() for line in (folder / "calls").read_text().splitlines())
    return sorted((Call(float(moment), command) for moment, command in rows), key=lambda call: call.time)


def per_minute(calls: Sequence[Call], start: float, end: float) -> dict[str, float]:
    """Return the calls per minute between two moments, by command."""
    counts = Counter(call.command for call in calls if start <= call.time < end)
    return {command: 60 * count / (end - start) for command, count in sorted(counts.items())}
