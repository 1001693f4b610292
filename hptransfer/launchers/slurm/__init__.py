"""SLURM: submit jobs in arrays by the resources that they request.

One sacct call returns the states of all jobs.
"""

from hptransfer.launchers.slurm.config import SlurmConfig

__all__ = ["SlurmConfig"]
