"""Batch scripts for arrays of jobs: what is in them, and the names that they go by."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hptransfer.core.records import Job, digest
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.resources import Resources

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SIGNAL_SHARE = 0.1
SHORT_S = 300
"""SLURM may send the signal a minute early: a limit below this has none, as it would come near the start. The worker
minds the end of its time by itself too."""


@dataclass(frozen=True, kw_only=True)
class ScriptTemplate:
    """What all scripts of a sweep have in common.

    Attributes:
        name: of the jobs, by which they are found.
        flags: further sbatch flags; None removes one.
        setup: lines of shell before the command.
        python: shell text that starts the interpreter, around which `wrapper` is put.
        signal_s: at most so long before the time limit the job is told of it.
        checkpoint_s: between two checkpoints that nothing asks for.
        stack: trials of a job that train as one, at most; 0: as measured.
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
    """User text as a job name: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "sweep"


def sweep_name(folder: RunFolder) -> str:
    """The name of a sweep's jobs: no other run folder has it."""
    return f"{clean_name(folder.path.name)}-{digest(str(folder.path.absolute()))[:6]}"


def array_script(
    form: ScriptTemplate,
    folder: RunFolder,
    jobs: Sequence[Job],
    resources: Resources,
    *,
    share: int,
    exclude: Sequence[str] = (),
) -> str:
    """The script of an array in which task number i runs the i-th of the jobs."""
    from hptransfer.launchers.slurm.submitit_adapter import batch_script

    place = folder.path.absolute()
    setup = [
        f"jobs=({' '.join(shlex.quote(job.id) for job in jobs)})",
        f"attempts=({' '.join(str(job.attempt) for job in jobs)})",
        'job="${jobs[$SLURM_ARRAY_TASK_ID]}"',
        f'exec >> {shlex.quote(str(place / "jobs"))}/"$job.log" 2>&1',
        *_prologue(resources, form),
        *form.setup,
    ]
    worker = f'-m hptransfer.worker {shlex.quote(str(place))} "$job" "${{attempts[$SLURM_ARRAY_TASK_ID]}}"'
    # In place of the shell, so that signals reach the worker itself.
    command = f"exec {form.wrapper} {form.python} {worker}".replace("  ", " ")
    log = str(place / "jobs" / "slurm.log").replace("%", "%%")
    flags = {"output": log, "requeue": True, "signal": _signal(form.signal_s, resources), **form.flags}
    if exclude:
        flags["exclude"] = ",".join(filter(None, [form.flags.get("exclude"), *exclude]))
    return batch_script(form.name, resources, setup, command, flags, array=(len(jobs), share))


def _prologue(resources: Resources, form: ScriptTemplate) -> list[str]:
    """Lines before those of the user."""
    lines = [
        "trap '' USR2  # until the worker listens",
        f"export HPTRANSFER_CHECKPOINT_S={form.checkpoint_s} HPTRANSFER_STACK={form.stack}",
    ]
    if resources.minutes is not None:
        lines.append(f"export HPTRANSFER_DEADLINE=$(( $(date +%s) + {60 * resources.minutes} ))")
    lines.append("export " + " ".join(f"{name}={resources.cpus}" for name in THREADS))
    lines.append(f"export SRUN_CPUS_PER_TASK={resources.cpus}")
    return lines


def _signal(signal_s: int, resources: Resources) -> str | None:
    """When the batch process is told of its time limit."""
    if resources.minutes is None:
        return f"B:USR2@{signal_s}"
    limit_s = 60 * resources.minutes
    return f"B:USR2@{max(1, min(signal_s, round(SIGNAL_SHARE * limit_s)))}" if limit_s >= SHORT_S else None


def interpreter(python: str | None) -> str:
    """Shell text that starts Python: the user's, or this process's own."""
    return python or shlex.quote(sys.executable)
