"""The argument list that starts a trial's script: as it is, or by torchrun on every node of its allocation."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from hptransfer.core.command_templates import TemplateValue, fill_template
from hptransfer.worker.runners.script.config import ScriptConfig

# A step of its own inside the job's, on all of its resources.
SRUN = ("--ntasks-per-node=1", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit=1")


def arguments(
    config: ScriptConfig, names: Mapping[str, TemplateValue], environment: Mapping[str, str] = os.environ
) -> list[str]:
    """
    Args:
        environment: says which allocation this is.
    """
    command = [fill_template(argument, names) for argument in config.command]
    if config.launch == "plain":
        return command
    torchrun = [fill_template(argument, names) for argument in config.torchrun]
    torchrun.append(f"--nproc-per-node={config.processes}")
    nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes == 1:
        return [*torchrun, "--standalone", "--no-python", *command]
    meeting = [
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={names['trial']}-{names['attempt']}",
        f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}",
    ]
    return ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", *SRUN, *torchrun, *meeting, "--no-python", *command]


def _free_port() -> int:
    """A port of this node, which is the allocation's first, where processes meet."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
