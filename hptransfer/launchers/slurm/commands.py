"""Calls of SLURM's commands, with a time limit and a clean environment.

The environment of an allocation in which this process may run is hidden from them.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping

COMMAND_TIMEOUT_S = 60.0
SCRUBBED_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "PMIX_", "PMI_")
PRESERVED_VARIABLES = ("SLURM_CONF", "SLURM_CONF_SERVER")


class CallError(Exception):
    """Error of a command that failed, timed out or is missing.

    The message is that of the command.
    """


def scrubbed_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables that would change a submission, such as SLURM_CPU_BIND."""
    return sorted(
        name for name in environment if name.startswith(SCRUBBED_PREFIXES) and name not in PRESERVED_VARIABLES
    )


class SlurmCommands:
    """Runner of SLURM's commands.

    Attributes:
        counts: number of calls by command, the measure of the load on the scheduler.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def run(self, *command: str) -> str:
        """Return the standard output of a command.

        Raises:
            CallError: the command failed.
        """
        self.counts[command[0]] += 1
        hidden = set(scrubbed_variables())
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        try:
            process = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise CallError(f"{command[0]} did not answer within {COMMAND_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise CallError(f"{command[0]} cannot be run ({error.strerror})") from None
        if process.returncode != 0:
            raise CallError(
                last_nonblank_line(process.stderr) or f"{command[0]} ended with exit code {process.returncode}"
            )
        return process.stdout


def last_nonblank_line(text: str) -> str:
    """Return the last line of a message that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
