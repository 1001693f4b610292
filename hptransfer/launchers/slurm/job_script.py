"""Batch scripts for arrays of jobs, and the names of those jobs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.core.records import Job, digest
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.job_resources import Resources

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SIGNAL_SHARE = 0.1
MIN_SIGNALED_S = 300
"""Jobs with a shorter time limit get no signal: SLURM may send it a minute early, which would be near their start. The
worker also watches its deadline by itself."""


@dataclass(frozen=True, kw_only=True)
class ScriptTemplate:
    """Common part of all scripts of a sweep.

    Attributes:
        name: name of the jobs, by which they are found in the queue.
        flags: further sbatch flags; None removes a flag.
        setup: lines of shell before the command.
        python: shell text that starts the interpreter.
        wrapper: shell text in front of the interpreter.
        signal_s: seconds between the warning signal and the time limit, at most.
        checkpoint_s: seconds between two periodic checkpoints.
        stack: largest number of a job's trials that train as one model; 0 for the measured number.
    """

    name: str
    flags: Mapping[str, Any]
    setup: Sequence[str]
    python: str
    wrapper: str
    signal_s: int
    checkpoint_s: int
    stack: int


def clean_name(text: str) -> str:
    """Convert user text to a job name: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "sweep"


def sweep_name(folder: RunFolder) -> str:
    """Return the name of a sweep's jobs, unique to its run folder."""
    return f"{clean_name(folder.path.name)}-{digest(str(folder.path.absolute()))[:6]}"


def array_script(
    template: ScriptTemplate,
    folder: RunFolder,
    jobs: Sequence[Job],
    resources: Resources,
    *,
    share: int,
    exclude: Sequence[str] = (),
) -> str:
    """Return the script of an array whose task i runs job i."""
    from hptransfer.launchers.slurm.submitit_adapter import batch_script

    path = folder.path.absolute()
    setup = [
        f"jobs=({' '.join(shlex.quote(job.id) for job in jobs)})",
        f"attempts=({' '.join(str(job.attempt) for job in jobs)})",
        'job="${jobs[$SLURM_ARRAY_TASK_ID]}"',
        f'exec >> {shlex.quote(str(path / "jobs"))}/"$job.log" 2>&1',
        *_prologue(resources, template),
        *template.setup,
    ]
    worker = f'-m hptransfer.worker {shlex.quote(str(path))} "$job" "${{attempts[$SLURM_ARRAY_TASK_ID]}}"'
    # exec replaces the shell, so that signals reach the worker itself.
    command = f"exec {template.wrapper} {template.python} {worker}".replace("  ", " ")
    log = str(path / "jobs" / "slurm.log").replace("%", "%%")
    flags = {"output": log, "requeue": True, "signal": _signal_flag(template.signal_s, resources), **template.flags}
    if exclude:
        flags["exclude"] = ",".join(filter(None, [template.flags.get("exclude"), *exclude]))
    return batch_script(template.name, resources, setup, command, flags, array=(len(jobs), share))


def _prologue(resources: Resources, template: ScriptTemplate) -> list[str]:
    """Return the lines of shell before those of the user."""
    lines = [
        "trap '' USR2  # until the worker listens",
        f"export HPTRANSFER_CHECKPOINT_S={template.checkpoint_s} HPTRANSFER_STACK={template.stack}",
    ]
    if resources.minutes is not None:
        lines.append(f"export HPTRANSFER_DEADLINE=$(( $(date +%s) + {60 * resources.minutes} ))")
    lines.append("export " + " ".join(f"{name}={resources.cpus}" for name in THREAD_VARIABLES))
    lines.append(f"export SRUN_CPUS_PER_TASK={resources.cpus}")
    return lines


def _signal_flag(signal_s: int, resources: Resources) -> str | None:
    """Return the flag that makes SLURM signal the time limit in advance."""
    if resources.minutes is None:
        return f"B:USR2@{signal_s}"
    limit_s = 60 * resources.minutes
    return f"B:USR2@{max(1, min(signal_s, round(SIGNAL_SHARE * limit_s)))}" if limit_s >= MIN_SIGNALED_S else None


def interpreter(python: str | None) -> str:
    """Return shell text that starts Python: the user's, or this interpreter."""
    return python or shlex.quote(sys.executable)
