"""Submission by submitit.

Submitit writes the script's head and its own lines, hands it to sbatch and reads the job's number. What it
submits otherwise is a pickled function, with handlers of its own for signals and a result that is pickled too; there
is no public door for a command. So its executor is asked to submit a text, as it does itself for functions, and two
of its methods are replaced: the one that makes the text, as flags that the user removes have to go (submitit
always writes `signal` and `open-mode`), and the one that names the command line of sbatch, which has to run
without the variables of an allocation around us.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from hptransfer.core.io import write_text
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands, scrubbed
from hptransfer.launchers.slurm.resources import Resources

SUBMIT_TIMEOUT_S = 120


def batch_script(
    name: str,
    resources: Resources,
    setup: Sequence[str],
    command: str,
    flags: Mapping[str, Any],
    *,
    array: tuple[int, int] | None = None,
) -> str:
    """A script that asks for resources and runs one command.

    Args:
        flags: further flags of sbatch; None removes one, those that submitit writes by itself too.
        array: tasks, and how many of them may run at a time.
    """
    asked: dict[str, Any] = {
        "job_name": name,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "mem": None if resources.memory_mib is None else f"{resources.memory_mib}M",
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "wckey": None,
    }
    count, share = array or (None, 1)
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    text = _make_sbatch_string(
        command=command,
        folder=".",
        **asked,
        setup=list(setup),
        stderr_to_stdout=True,
        use_srun=False,
        map_count=count,
        array_parallelism=share,
        additional_parameters={_key(name): value for name, value in given.items() if value is not None},
    )
    removed = {name for name, value in given.items() if value is None or value is False}
    kept = [line for line in text.split("\n") if not (line.startswith("#SBATCH --") and _flag(line) in removed)]
    return "\n".join(kept)


def _key(flag: str) -> str:
    """Submitit's own key of a flag, so that one line comes of it."""
    return flag if flag == "open-mode" else flag.replace("-", "_")


def _flag(line: str) -> str:
    return line.removeprefix("#SBATCH --").partition("=")[0]


class _Executor(SlurmExecutor):
    """Submits a text that there is."""

    def __init__(self, folder: str, text: str) -> None:
        super().__init__(folder)
        self.text = text

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        hidden = [word for name in scrubbed() for word in ("-u", name)]
        return ["timeout", str(SUBMIT_TIMEOUT_S), "env", *hidden, "sbatch", str(submission_file_path)]


def submit(calls: SlurmCommands, text: str, keep: Path) -> str:
    """Hands a script to sbatch; a copy stays at `keep` once it is accepted.

    Returns:
        What SLURM calls the job or the array.

    Raises:
        CallError: sbatch refused it, or did not answer.
    """
    calls.counts["sbatch"] += 1
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        try:
            number = str(_Executor(place, text)._submit_command("").job_id)
        except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
            raise CallError(" ".join(str(error).split()) or "sbatch did not answer") from None
    write_text(keep, text)
    return number
