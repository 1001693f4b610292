"""The kit that every launcher of this machine passes; SLURM's is tested on a cluster, in tests/slurm."""

from pathlib import Path

import pytest

from hptransfer.launchers import LauncherConfig
from hptransfer.launchers.inline import InlineConfig
from hptransfer.launchers.local import LocalConfig
from hptransfer.testing import launchers

every_launcher = pytest.mark.parametrize("config", [InlineConfig(), LocalConfig(workers=1)], ids=lambda one: one.name)


@every_launcher
def test_each_job_ends_once_with_its_outcome(config: LauncherConfig, tmp_path: Path) -> None:
    launchers.check_jobs_end(config, tmp_path)


@every_launcher
def test_a_cancelled_job_is_reported_so_or_dropped(config: LauncherConfig, tmp_path: Path) -> None:
    launchers.check_cancelled_jobs(config, tmp_path)


@every_launcher
def test_settings_are_checked(config: LauncherConfig) -> None:
    launchers.check_config(config)
