"""Command line that starts a trial's script.

It is the command itself, or torchrun on every node of the allocation.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from hptransfer.core.command_templates import TemplateValue, fill_template
from hptransfer.core.records import Trial
from hptransfer.worker.runners.script.config import ScriptConfig
from hptransfer.worker.runners.script.costs import compute_costs
from hptransfer.worker.runners.script.files import rendered_paths

# The job step shares all resources of the job.
SRUN_OPTIONS = ("--ntasks-per-node=1", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit=1")

# Files in a trial's folder: all names with their values, and the lines that the script reports.
SETTINGS, REPORTED = "settings.json", "reported.jsonl"


def template_names(config: ScriptConfig, trial: Trial, folder: Path, attempt: int) -> dict[str, TemplateValue]:
    """Return all names that templates may use and the script may read.

    Args:
        folder: the trial's own folder.
    """
    tokens = compute_costs(config).tokens
    return {
        **config.names,
        "params": trial.params,
        "flops": trial.flops,
        **({} if tokens is None else {"tokens": tokens}),
        "seed": trial.seed,
        "trial": trial.id,
        "trial_dir": str(folder),
        "settings": str(folder / SETTINGS),
        "metrics": str(folder / REPORTED),
        "attempt": attempt,
        "python": sys.executable,
        **{key: str(path) for key, path in rendered_paths(config, folder).items()},
    }


def build_arguments(
    config: ScriptConfig, names: Mapping[str, TemplateValue], environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the arguments that start a trial's script.

    Args:
        environment: variables that describe the allocation.
    """
    command = [fill_template(argument, names) for argument in config.command]
    if config.launch == "plain":
        return command
    torchrun = [fill_template(argument, names) for argument in config.torchrun]
    torchrun.append(f"--nproc-per-node={config.processes}")
    nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes == 1:
        return [*torchrun, "--standalone", "--no-python", *command]
    rendezvous = [
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={names['trial']}-{names['attempt']}",
        f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}",
    ]
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        *SRUN_OPTIONS,
        *torchrun,
        *rendezvous,
        "--no-python",
        *command,
    ]


def _free_port() -> int:
    """Return a free port of this node, the first of the allocation.

    It is the endpoint of the rendezvous.
    """
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
