"""Adapter to submitit, the only module that uses its private methods.

Submitit writes the head of a batch script, runs sbatch and reads the job's number. Its public `submit` pickles a
function and its result, and installs its own signal handlers; it has no public method for a command. The adapter sets
parameters with the public `update_parameters`, and uses the methods in PRIVATE_METHODS for the rest:

- `_make_submission_file_text` makes the script. Flags that the user removes are then deleted from the text, because
  submitit always writes `signal` and `open-mode`. For submission it is overridden to return a given script.
- `_make_submission_command` is the command line of sbatch. It is overridden to hide the variables of an allocation in
  which the driver may run.
- `_submit_command` submits the script, as it does for submitit's own functions.

tests/launchers/test_submitit_adapter.py pins them to the supported versions.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from hptransfer.core.io import write_text
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands, scrubbed_variables
from hptransfer.launchers.slurm.job_resources import Resources

SUBMIT_TIMEOUT_S = 120
PRIVATE_METHODS = {
    "_make_submission_file_text": ("self", "command", "uid"),
    "_make_submission_command": ("self", "submission_file_path"),
    "_submit_command": ("self", "command"),
}
"""Private methods of submitit's SlurmExecutor that are called or overridden here, with their parameters."""


class _ScriptWriter(SlurmExecutor):
    """Executor that returns the text of a script instead of submitting it."""

    @classmethod
    def affinity(cls) -> int:
        """Accept machines without SLURM, on which a script may be previewed."""
        return 1

    def text(self, command: str, parameters: Mapping[str, Any], tasks: int | None) -> str:
        self.update_parameters(**parameters)
        self.parameters["map_count"] = tasks
        return str(self._make_submission_file_text(command, ""))


class _TextExecutor(SlurmExecutor):
    """Executor that submits a given script."""

    def __init__(self, folder: str, text: str) -> None:
        super().__init__(folder)
        self._text = text

    def submit_text(self) -> str:
        return str(self._submit_command("").job_id)

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        hidden = [word for name in scrubbed_variables() for word in ("-u", name)]
        return ["timeout", str(SUBMIT_TIMEOUT_S), "env", *hidden, "sbatch", str(submission_file_path)]


def batch_script(
    name: str,
    resources: Resources,
    setup: Sequence[str],
    command: str,
    flags: Mapping[str, Any],
    *,
    array: tuple[int, int] | None = None,
) -> str:
    """Return a script that requests resources and runs one command.

    Args:
        flags: further flags of sbatch; None removes a flag, including those that submitit always writes.
        array: number of tasks, and the largest number of running ones.
    """
    tasks, share = array or (None, 1)
    by_flag = {flag.replace("_", "-"): value for flag, value in flags.items()}
    parameters: dict[str, Any] = {
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
        "setup": list(setup),
        "stderr_to_stdout": True,
        "use_srun": False,
        "array_parallelism": share,
        "additional_parameters": {_parameter_name(flag): value for flag, value in by_flag.items() if value is not None},
    }
    text = _ScriptWriter(".").text(command, parameters, tasks)
    removed = {flag for flag, value in by_flag.items() if value is None or value is False}
    kept = [line for line in text.split("\n") if not (line.startswith("#SBATCH --") and _flag_name(line) in removed)]
    return "\n".join(kept)


def _parameter_name(flag: str) -> str:
    """Return submitit's key for a flag, so that it is written once."""
    return flag if flag == "open-mode" else flag.replace("-", "_")


def _flag_name(line: str) -> str:
    return line.removeprefix("#SBATCH --").partition("=")[0]


def submit(calls: SlurmCommands, text: str, copy: Path) -> str:
    """Submit a script with sbatch.

    A copy of it is written once it is accepted.

    Returns:
        SLURM's id of the job or the array.

    Raises:
        CallError: sbatch refused the script, or did not answer.
    """
    calls.counts["sbatch"] += 1
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        try:
            number = _TextExecutor(folder, text).submit_text()
        except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
            raise CallError(" ".join(str(error).split()) or "sbatch did not answer") from None
    write_text(copy, text)
    return number
