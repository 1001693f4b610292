"""Member `slurm` of the launchers: settings, and the launcher opened from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hptransfer.core.errors import RunFolderError
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import LAUNCHERS, Launcher
from hptransfer.launchers.slurm.launcher import SlurmLauncher
from hptransfer.launchers.slurm.settings import SlurmSettings


@LAUNCHERS.register("slurm")
@dataclass(kw_only=True)
class SlurmConfig(SlurmSettings):
    """Settings of launcher=slurm."""

    def open(self, folder: Path, gpus: int) -> Launcher:
        if not str(folder.absolute()).isprintable():
            raise RunFolderError(f"run folder {str(folder)!r} must be one line of plain text; choose another name=NAME")
        return SlurmLauncher(RunFolder(folder), self)
