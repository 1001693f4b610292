"""The cluster of the tests does what tests of faults ask of it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.support.helpers import ROOT

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
    job = submit(slurm, "sleep 60", "--nodes=4", "--exclusive")
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start")
    upper = slurm.preempt(seconds=1)
    slurm.wait_for(lambda: slurm.state(upper) == "COMPLETED", "the upper job")
    assert slurm.state(job) == "PENDING"
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start again")
    slurm.cancel(job)


@pytest.mark.slow
def test_a_node_that_dies_takes_its_job_along(slurm):
    job = submit(slurm, "sleep 60", "--nodelist=n3", "--no-requeue")
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start")
    slurm.fail_node("n3")
    slurm.wait_for(lambda: slurm.state(job) == "NODE_FAIL", "word of the failure")
    slurm.start_node("n3")
    after = submit(slurm, "true", "--nodelist=n3")
    slurm.wait_for(lambda: slurm.state(after) == "COMPLETED", "a job on the node that came back")


@pytest.mark.slow
def test_daemons_go_and_come_back_while_a_job_runs(slurm):
    job = submit(slurm, "sleep 4")
    slurm.wait_for(lambda: slurm.state(job) == "RUNNING", "start")
    slurm.stop_accounting()
    assert not slurm.answers("sacct", "-n", f"--jobs={job}")
    slurm.stop_controller()
    slurm.start_controller()
    slurm.start_accounting()
    slurm.wait_for(lambda: slurm.accounted(job) == "COMPLETED", "the end")


@pytest.mark.slow
def test_nothing_is_left_of_a_cluster_whose_owner_is_killed(slurm):
    """A second cluster, side by side with the first."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.slurm.cluster", "--nodes=1", "--", "sh", "-c", "echo $SLURM_CONF; sleep 60"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip()).parent
    assert folder.is_dir()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()
    assert not any(str(folder) in line for line in subprocess.check_output(["ps", "axeww"], text=True).splitlines())
