"""SLURM: jobs in arrays by the resources that they request; states of all jobs by one sacct call."""

from hptransfer.launchers.slurm.config import SlurmConfig

__all__ = ["SlurmConfig"]
