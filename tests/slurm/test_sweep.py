"""Whole sweeps on the cluster: to their prediction, and to the same one whatever strikes jobs and driver."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hptransfer.core.errors import EXIT_TRIALS_FAILED
from hptransfer.core.io import read_json
from hptransfer.core.run_folder import RunFolder
from tests.slurm.cluster import Cluster, ClusterError
from tests.support.helpers import TINY, command, start
from tests.support.jobs import results

pytestmark = pytest.mark.slurm

# 8 trials in one job at the smaller scale, in two at the larger: several seconds of training each.
SWEEP = (
    *("sweep", "quickstart", *TINY, "grid.tokens.values=[196608]", "space.lr.count=4", "seeds=2"),
    *("launcher=slurm", "tracker=none", "launcher.partition=low", "launcher.checkpoint_s=1"),
    *("launcher.poll_min_s=0.5", "launcher.poll_max_s=2", "launcher.time=10"),
)
NUM_JOBS = 3


def wait_for(slurm: Cluster, question: Callable[[], object], what: str) -> None:
    """Waits, and lets requeued jobs start, which SLURM holds back for a while."""

    def answer() -> object:
        if found := question():
            return found
        for job in slurm.jobs("PENDING"):
            with contextlib.suppress(ClusterError):  # it runs by now
                slurm.release(job)
        return None

    slurm.wait_for(answer, what)


def logs(folder: RunFolder) -> dict[str, str]:
    return {path.stem: path.read_text() for path in folder.jobs.glob("*.log") if path.stem != "slurm"}


def training(slurm: Cluster, folder: RunFolder) -> list[str]:
    """What SLURM calls the jobs that have a checkpoint and run."""
    states = read_json(folder.jobs / "states.json")["jobs"] if (folder.jobs / "states.json").exists() else {}
    running = set(slurm.jobs("RUNNING"))
    with_checkpoint = {path.name.partition(".")[0] for path in folder.jobs.glob("*.checkpoint")}
    return [
        state["scheduler"]
        for job, state in states.items()
        if job in with_checkpoint & states.keys() and state["scheduler"] in running
    ]


@pytest.mark.slow
def test_a_disturbed_sweep_predicts_what_the_undisturbed_one_does(here: Cluster, tmp_path: Path) -> None:
    calm, struck = (RunFolder(tmp_path / name / "quickstart") for name in ("calm", "struck"))
    done = command(*SWEEP, f"runs={calm.path.parent}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(logs(calm)) == NUM_JOBS

    words = (*SWEEP, f"runs={struck.path.parent}")
    with start(*words) as driver:
        wait_for(here, lambda: training(here, struck), "a job in training")
        here.requeue(training(here, struck)[0])
        wait_for(here, lambda: "stops: preempted" in "".join(logs(struck).values()), "a job that stops")
        wait_for(here, lambda: training(here, struck), "a job in training")
        driver.kill()

    here.preempt(nodes=4, seconds=1)
    wait_for(here, lambda: "".join(logs(struck).values()).count("stops: preempted") >= 3, "jobs that are evicted")
    with start(*words) as driver:
        wait_for(here, lambda: training(here, struck), "a job in training")
        here.cancel(training(here, struck)[0])
        wait_for(here, lambda: "reset" in command("retry", str(struck.path), "--cause", "cancelled").stdout, "a retry")
        wait_for(here, lambda: driver.poll() is not None, "the end of the sweep")
        said, _ = driver.communicate()
    if driver.returncode == EXIT_TRIALS_FAILED:  # it cancelled the last job, and the driver ended before the request
        done = command(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert driver.returncode == 0, said
    assert "".join(logs(struck).values()).count("resumes after step") >= NUM_JOBS
    assert read_json(struck.prediction) == read_json(calm.prediction)
    assert results(struck) == results(calm)
