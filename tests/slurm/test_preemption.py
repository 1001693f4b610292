"""Whatever a scheduler does to a job, the job comes back and trains to the bits that it would have had undisturbed."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.io import read_json, write_json
from hptransfer.core.run_folder import RunFolder
from tests.slurm.cluster import Cluster
from tests.support.helpers import ROOT
from tests.support.jobs import JOB, SLOW, checkpoints, log_of, points, results, start_worker, write_job
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_job(tmp_path_factory.mktemp("undisturbed"), *SLOW)
    with start_worker(folder) as worker:
        assert worker.wait() == 0, log_of(folder)
    return results(folder)


def submit(
    slurm: Cluster, folder: RunFolder, *options: str, limit_s: int | None = None, attempt: int = 1, path: str = ""
) -> str:
    """The worker as a batch job; the deadline is what the script says when the job has a limit of its own."""
    worker = shlex.join([sys.executable, "-m", "hptransfer.worker", str(folder.path), JOB, str(attempt)])
    deadline = f"export HPTRANSFER_DEADLINE=$(($(date +%s) + {limit_s}))\n" if limit_s else ""
    script = folder.path.parent / "job.sh"
    script.write_text(
        f"#!/bin/sh\nexport OMP_NUM_THREADS=1 HPTRANSFER_CHECKPOINT_S=0.5 HPTRANSFER_STACK=16\n{deadline}"
        f"export PYTHONPATH={path}:{ROOT}\nexec {worker}\n"
    )
    words = ("--time=10", "--requeue", "--open-mode=append", f"--output={folder.jobs}/{JOB}.log", *options)
    return slurm.run("sbatch", "--parsable", *words, str(script)).strip()


def wait_until_it_trains(slurm: Cluster, job: str, folder: RunFolder) -> None:
    wait_until(lambda: points(folder) >= 6 and checkpoints(folder), f"job {job}: {folder}", progress=slurm.progress)
    assert slurm.state(job) == "RUNNING"


def wait_until_it_is_back(slurm: Cluster, job: str) -> None:
    """A requeued job is held back for a while, unless it is released."""
    slurm.wait_for(lambda: slurm.restarts(job) and slurm.state(job) in ("PENDING", "RUNNING"), "requeue")
    slurm.release(job)


def assert_ends_undisturbed(slurm: Cluster, job: str, folder: RunFolder, undisturbed: Any) -> None:
    slurm.wait_for(lambda: slurm.state(job) in ("COMPLETED", "FAILED"), f"the end of job {job}")
    assert slurm.state(job) == "COMPLETED", log_of(folder)
    assert "resumes after step" in log_of(folder)
    assert results(folder) == undisturbed
    assert not [name for name in checkpoints(folder) if "set-aside" not in name]


@pytest.mark.slow
def test_a_job_that_is_requeued_goes_on(slurm: Cluster, tmp_path: Path, undisturbed: Any) -> None:
    folder = write_job(tmp_path, *SLOW)
    job = submit(slurm, folder)
    wait_until_it_trains(slurm, job, folder)
    slurm.requeue(job)
    wait_until_it_is_back(slurm, job)
    assert "stops: preempted" in log_of(folder)
    assert_ends_undisturbed(slurm, job, folder, undisturbed)


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on(slurm: Cluster, tmp_path: Path, undisturbed: Any) -> None:
    folder = write_job(tmp_path, *SLOW)
    job = submit(slurm, folder, "--partition=low")
    wait_until_it_trains(slurm, job, folder)
    slurm.preempt(nodes=4, seconds=1)
    wait_until_it_is_back(slurm, job)
    assert "stops: preempted" in log_of(folder)
    assert_ends_undisturbed(slurm, job, folder, undisturbed)


@pytest.mark.slow
def test_a_job_whose_node_fails_goes_on_from_its_last_checkpoint(
    slurm: Cluster, tmp_path: Path, undisturbed: Any
) -> None:
    folder = write_job(tmp_path, *SLOW)
    job = submit(slurm, folder)
    wait_until_it_trains(slurm, job, folder)
    node = slurm.run("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()
    slurm.fail_node(node)
    assert "stops" not in log_of(folder)
    wait_until_it_is_back(slurm, job)
    assert_ends_undisturbed(slurm, job, folder, undisturbed)
    slurm.start_node(node)


@pytest.mark.slow
def test_a_job_that_is_warned_of_its_limit_asks_for_its_own_requeue(
    slurm: Cluster, tmp_path: Path, undisturbed: Any
) -> None:
    """The signal that SLURM sends so many seconds before a limit; limits are whole minutes, so it is sent by hand."""
    folder = write_job(tmp_path, *SLOW)
    job = submit(slurm, folder)
    wait_until_it_trains(slurm, job, folder)
    slurm.run("scancel", "--batch", "--signal=USR2", job)
    wait_until_it_is_back(slurm, job)
    assert f"requeue of job {job}: done" in log_of(folder)
    assert_ends_undisturbed(slurm, job, folder, undisturbed)


@pytest.mark.slow
def test_a_job_that_nears_its_time_limit_is_warned_in_time(slurm: Cluster, tmp_path: Path, undisturbed: Any) -> None:
    """Steps as slow as it takes to need more than the shortest limit that SLURM knows, a minute."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "from hptransfer.training.stack import Stack\n"
        "step = Stack.step\n"
        "Stack.step = lambda *args: (time.sleep(0.06), step(*args))[1]\n"
    )
    folder = write_job(tmp_path, *SLOW)
    job = submit(slurm, folder, "--time=1", "--signal=B:USR2@10", path=str(tmp_path))
    wait_until_it_trains(slurm, job, folder)
    slurm.wait_for(lambda: f"requeue of job {job}: done" in log_of(folder), "the warning")
    wait_until_it_is_back(slurm, job)
    assert "stops: time limit" in log_of(folder)
    assert_ends_undisturbed(slurm, job, folder, undisturbed)


@pytest.mark.slow
def test_a_deadline_does_without_a_signal_and_a_refused_requeue_leaves_the_job_to_the_next_attempt(
    slurm: Cluster, tmp_path: Path, undisturbed: Any
) -> None:
    folder = write_job(tmp_path, "grid.tokens.values=[1048576]")
    job = submit(slurm, folder, "--no-requeue", limit_s=10)
    slurm.wait_for(lambda: slurm.state(job) == "FAILED", "the deadline")
    assert "stops: time limit" in log_of(folder)
    assert f"requeue of job {job}: " in log_of(folder)
    assert "ExitCode=75:0" in slurm.run("scontrol", "show", "job", job)
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint"]
    write_json(folder.job_path(JOB), {**read_json(folder.job_path(JOB)), "attempt": 2})
    late = submit(slurm, folder, attempt=1)
    slurm.wait_for(lambda: slurm.state(late) == "FAILED", "the attempt that is no longer the job's")
    assert "ExitCode=2:0" in slurm.run("scontrol", "show", "job", late)
    job = submit(slurm, folder, attempt=2)
    slurm.wait_for(lambda: slurm.state(job) == "COMPLETED", "the next attempt")
    assert "resumes after step" in log_of(folder)


@pytest.mark.slow
def test_a_job_that_is_cancelled_stays_so(slurm: Cluster, tmp_path: Path) -> None:
    folder = write_job(tmp_path, *SLOW)
    job = submit(slurm, folder)
    wait_until_it_trains(slurm, job, folder)
    slurm.cancel(job)
    slurm.wait_for(lambda: slurm.state(job) == "CANCELLED" and not slurm.jobs(), "the end")
    assert checkpoints(folder) == [f"{JOB}.0.checkpoint"]
