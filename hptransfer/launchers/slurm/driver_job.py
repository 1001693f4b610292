"""Driver as a small, long SLURM job that is requeued when interrupted.

Preemption and the time limit both put it back into the queue.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hptransfer.core.errors import StoppedError
from hptransfer.core.locks import locked_by
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands
from hptransfer.launchers.slurm.job_resources import Resources
from hptransfer.launchers.slurm.job_script import interpreter, sweep_name
from hptransfer.launchers.slurm.settings import SlurmSettings

DRIVER_WARNING_S = 120
DRIVER_OVERRIDE = "driver="


def driver_name(folder: RunFolder) -> str:
    """Return the name of the driver's job."""
    return f"{sweep_name(folder)}-driver"


def driver_script(config: SlurmSettings, folder: RunFolder, sweep: str, overrides: Sequence[str]) -> str:
    """Return the script of a job that drives the sweep.

    The output of the driver goes to driver.log.
    """
    from hptransfer.launchers.slurm.submitit_adapter import batch_script

    kept = [override for override in overrides if not override.startswith(DRIVER_OVERRIDE)]
    # The user who submits has passed the check of trust; a node may lack the user's state folder.
    words = shlex.join(["sweep", sweep, "--trust", *kept, f"{DRIVER_OVERRIDE}local"])
    setup = [
        # Only the shell receives the signal of the time limit. Its requeue makes SLURM end the driver and put the job
        # back into the queue. The next driver reads all of its state from the run folder.
        "trap 'scontrol requeue \"$SLURM_JOB_ID\"' USR1",
        "trap 'kill -TERM $driver 2>/dev/null' TERM",
        *config.setup,
        f"{config.wrapper} {interpreter(config.python)} -u -m hptransfer.cli.main {words} &".strip(),
        "driver=$!",
    ]
    # A trapped signal ends a wait.
    command = "wait $driver; code=$?; while kill -0 $driver 2>/dev/null; do wait $driver; code=$?; done; exit $code"
    resources = Resources(
        minutes=config.driver_time,
        memory_mib=round(1024 * config.driver_memory),
        partition=config.driver_partition or config.partition,
        account=config.account,
        qos=config.qos,
    )
    flags = {
        "output": str(folder.path.absolute() / "driver.log").replace("%", "%%"),
        "requeue": True,
        "signal": f"B:USR1@{min(DRIVER_WARNING_S, 6 * config.driver_time)}",
        **{name.replace("_", "-"): value for name, value in config.driver_sbatch.items()},
    }
    return batch_script(driver_name(folder), resources, setup, command, flags)


def submit_driver(config: SlurmSettings, folder: RunFolder, sweep: str, overrides: Sequence[str]) -> str:
    """Submit the driver's job and return its number.

    Raises:
        StoppedError: a driver is running or queued, or the scheduler refuses the job.
    """
    from hptransfer.launchers.slurm.submitit_adapter import submit

    calls, name = SlurmCommands(), driver_name(folder)
    if holder := locked_by(folder.driver_lock):
        raise StoppedError(
            f"{folder.path} is being driven by process {holder.get('pid')} on {holder.get('host')}; watch it with "
            f"`hptransfer status {folder.path}`"
        )
    try:
        queued = calls.run("squeue", "--me", "--noheader", f"--name={name}", "--format=%i %T").splitlines()
        if queued:
            number, _, state = queued[0].partition(" ")
            raise StoppedError(
                f"{folder.path} has a driver in the queue, SLURM job {number} ({state.strip()}); "
                f"cancel it first with `scancel {number}`"
            )
        return submit(calls, driver_script(config, folder, sweep, overrides), folder.jobs / "last-driver.sh")
    except CallError as error:
        raise StoppedError(
            f"the driver's job was not submitted: {error}; correct launcher.driver_*, then run again"
        ) from None
