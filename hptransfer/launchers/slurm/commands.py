"""Calls of SLURM's commands: bounded, counted, and free of what an allocation around us has set."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping

TIMEOUT_S = 60.0
SCRUBBED = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "PMIX_", "PMI_")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")


class CallError(Exception):
    """A command failed, did not answer in time, or is not there; the message is its own."""


def scrubbed(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names in an environment that would change what a submission from it means, such as SLURM_CPU_BIND."""
    return sorted(name for name in environment if name.startswith(SCRUBBED) and name not in KEPT)


class SlurmCommands:
    """Runs commands.

    Attributes:
        counts: calls made so far, by command: what the load on the scheduler is judged by.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def run(self, *command: str) -> str:
        """What a command prints.

        Raises:
            CallError: it failed.
        """
        self.counts[command[0]] += 1
        hidden = set(scrubbed())
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise CallError(f"{command[0]} did not answer within {TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise CallError(f"{command[0]} cannot be run ({error.strerror})") from None
        if done.returncode != 0:
            raise CallError(one_line(done.stderr) or f"{command[0]} ended with exit code {done.returncode}")
        return done.stdout


def one_line(text: str) -> str:
    """The last line of a message that is no mere blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
