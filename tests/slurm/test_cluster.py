"""The cluster of the tests does what tests of faults ask of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.support.helpers import ROOT
from tests.support.waiting import Process, files, wait_until

pytestmark = pytest.mark.slurm


def submit(slurm: Cluster, script: str, *options: str) -> str:
    words = ("sbatch", "--parsable", "--time=5", "--output=/dev/null", *options, f"--wrap={script}")
    return slurm.run(*words).strip()


def test_a_job_gets_the_gpus_that_it_asks_for_and_accounting_knows_how_it_ended(slurm, tmp_path):
    seen = tmp_path / "seen"
    job = submit(slurm, f'echo "$CUDA_VISIBLE_DEVICES" > {seen}; exit 3', "--gpus-per-node=2")
    slurm.wait_for(lambda: slurm.accounted(job) == "FAILED", "accounting's word")
    assert seen.read_text() == "0,1\n"


@pytest.mark.slow
def test_an_upper_job_evicts_a_lower_one_which_comes_back(slurm):
    job = submit(slurm, "sleep 300", "--nodes=4", "--exclusive")
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start")
    upper = slurm.preempt(seconds=1)
    slurm.wait_for(lambda: slurm.state(upper) == "COMPLETED", "the upper job")
    assert slurm.restarts(job) == 1
    slurm.release(job)
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start again")


@pytest.mark.slow
def test_a_node_that_dies_takes_its_job_along(slurm):
    job = submit(slurm, "sleep 300", "--nodelist=n3", "--no-requeue")
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start")
    slurm.fail_node("n3")
    slurm.wait_for(lambda: slurm.state(job) == "NODE_FAIL", "word of the failure")
    slurm.start_node("n3")
    after = submit(slurm, "true", "--nodelist=n3")
    slurm.wait_for(lambda: slurm.state(after) == "COMPLETED", "a job on the node that came back")


@pytest.mark.slow
def test_daemons_go_and_come_back_while_a_job_runs(slurm, tmp_path):
    job = submit(slurm, f"until [ -e {tmp_path}/end ]; do sleep 0.1; done")
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start")
    slurm.stop_accounting()
    assert not slurm.answers("sacct", "-n", f"--jobs={job}")
    slurm.stop_controller()
    slurm.start_controller()
    slurm.start_accounting()
    (tmp_path / "end").touch()
    slurm.wait_for(lambda: slurm.accounted(job) == "COMPLETED", "the end")


@pytest.mark.slow
def test_nothing_is_left_of_a_cluster_whose_owner_is_killed(slurm):
    """A second cluster, side by side with the first."""
    owner = Process(
        [sys.executable, "-m", "tests.slurm.cluster", "--nodes=1", "--", "sh", "-c", "echo $SLURM_CONF; sleep 300"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        conf = Path(owner.stdout.readline().strip())
        assert conf.name == "slurm.conf"
        assert conf.exists()
        owner.kill()
    folder = conf.parent

    def left() -> list[str]:
        return [
            line for line in subprocess.check_output(["ps", "axeww"], text=True).splitlines() if str(folder) in line
        ]

    wait_until(
        lambda: not folder.exists() and not left(),
        f"the end of all processes of {folder}",
        progress=lambda: (files(folder)(), len(left())),
        pause_s=0.1,
    )
