"""How many trials a job carries: by the shape, the device that jobs get, and how many workers there are."""

from pathlib import Path
from typing import Any

import pytest

from hptransfer.config.compose import compose
from hptransfer.core.errors import ConfigError
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.planning.plan import make_plan
from hptransfer.worker.runners.builtin import BuiltinRunner
from tests.support.helpers import ONE_SCALE, tiny
from tests.support.scripted import Scripted, drive


def job_sizes(folder: RunFolder) -> list[int]:
    files = (path for path in folder.jobs.glob("*.json") if path.stem.isalnum() and path.stem != "states")
    return sorted(len(folder.read_job(path.stem).trials) for path in files)


@pytest.mark.parametrize(("trials", "jobs"), [(3, [1, 2]), (4, [2, 2]), (7, [3, 4])])
def test_no_core_of_this_machine_is_left_without_a_job(trials: int, jobs: list[int], tmp_path: Path) -> None:
    rates = [f"space.lr.count={trials}", "launcher.workers=2", "launcher=local"]
    config = tiny(tmp_path, *rates, "launcher.stack=4", "tracker=none", *ONE_SCALE, inline=False)
    launcher = Scripted()
    launcher.dedicated = True  # as workers of this machine are
    drive(config, launcher)
    assert job_sizes(config.folder) == jobs


def test_one_worker_has_them_all_in_one_job(tmp_path: Path) -> None:
    config = tiny(tmp_path, "launcher=local", "launcher.workers=1", "tracker=none", *ONE_SCALE, inline=False)
    drive(config, Scripted(slots=1))
    assert job_sizes(config.folder) == [3]


def test_a_gpu_gets_larger_jobs_wherever_the_driver_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BuiltinRunner, "gpus", lambda _: 0)

    def largest(*overrides: str) -> dict[int, int]:
        plan = make_plan(compose("quickstart", ["grid.width.values=[32,128,256]", *overrides]))
        return {int(scale.axes["width"]): plan.job_size(plan.run(scale)) for scale in plan.scales}

    assert largest() == largest("launcher=slurm") == {32: 4, 128: 4, 256: 1}
    assert largest("launcher=slurm", "launcher.gpus=1") == {32: 64, 128: 64, 256: 64}
    monkeypatch.setattr(BuiltinRunner, "gpus", lambda _: 1)
    assert largest() == {32: 64, 128: 64, 256: 64}
    assert largest("launcher=slurm") == {32: 4, 128: 4, 256: 1}


@pytest.mark.parametrize(
    ("values", "has"),
    [
        ({}, False),
        ({"gpus": 2}, True),
        ({"gpus": "width // 512"}, True),
        ({"by_scale": [{"when": "width >= 512", "gpus": 1}]}, True),
        ({"by_scale": [{"when": "width >= 512", "cpus": 2}]}, False),
        ({"sbatch": {"gres": "gpu:1"}}, True),
        ({"sbatch": {"gpus_per_task": 1}}, True),
        ({"sbatch": {"exclusive": True}}, False),
    ],
)
def test_a_cluster_s_jobs_have_a_gpu_where_they_ask_for_one(values: dict[str, Any], has: bool) -> None:
    assert SlurmConfig(**values).has_gpu(0) == has


@pytest.mark.parametrize("launcher", ["inline", "local", "slurm"])
def test_a_stack_below_nothing_is_refused_in_one_line(launcher: str) -> None:
    with pytest.raises(ConfigError, match=r"^launcher.stack must be at least 0, got -1; 0 measures .*$") as caught:
        compose("quickstart", [f"launcher={launcher}", "launcher.stack=-1"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["two", "1.5", "null", "[1,2]"])
def test_a_stack_that_is_no_number_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"launcher.stack") as caught:
        compose("quickstart", [f"launcher.stack={value}"])
    assert "\n" not in str(caught.value)
