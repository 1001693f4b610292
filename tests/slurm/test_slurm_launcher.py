"""launcher=slurm on a real SLURM: what becomes of jobs, and what the driver is told of it.

Most of these have workers that are shell scripts, put in by `wrapper`: what a worker does is tried elsewhere.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hptransfer.core.errors import StoppedError
from hptransfer.core.io import write_json
from hptransfer.core.locks import locked_by
from hptransfer.core.records import CANCELLED, DONE, KILLED, NODE_FAILURE, PREEMPTED, TIME_LIMIT, Job, Outcome, Scale
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import JobEnd
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.launcher import SlurmLauncher
from hptransfer.launchers.slurm.limits import Limits, read_limits
from hptransfer.testing.launchers import ended_jobs
from tests.support.helpers import TINY, command, outcomes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slurm


class Bench:
    """A run folder, a worker that is a shell script, and a launcher with short pauses."""

    def __init__(self, path: Path, worker: str = "", **values) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.create()
        script = path / "worker.sh"
        script.write_text(f"#!/bin/bash\n{worker or OUTCOMES}\n")
        script.chmod(0o755)
        defaults = {"poll_min_s": 0.5, "poll_max_s": 2.0, "grace_s": 0.5, "wrapper": str(script), "time": 5}
        self.config = SlurmConfig(**{**defaults, **values})
        self.config.check("launcher")
        self.launcher = self.open()

    def open(self) -> SlurmLauncher:
        return SlurmLauncher(self.folder, self.config)

    def submit(self, count: int = 1, attempt: int = 1) -> list[str]:
        """Submits jobs of one trial each; returns what SLURM calls them."""
        jobs = [self.job(number, attempt) for number in range(count)]
        numbers = self.launcher.submit(jobs)
        return [numbers[job.id] for job in jobs]

    def job(self, number: int, attempt: int = 1, scheduler: str | None = None) -> Job:
        trial = self.folder.trial(f"trial{number}")
        trial.mkdir(exist_ok=True)
        write_json(trial / "trial.json", {"run": {}})
        scale = Scale({"width": 16, "tokens": 4096})
        values = {"trials": [trial.name], "scale": scale, "params": 1000, "flops": 1e9}
        job = Job(id=f"job{number}", attempt=attempt, scheduler=scheduler, submitted=time.time(), **values)
        self.folder.write_job(job)
        return job

    def ends(self, count: int = 1) -> dict[str, JobEnd]:
        return {ended.job: ended for ended in ended_jobs(self.launcher, count)}

    def until(self, question: Callable[[], bool], what: str = "a job that runs") -> None:
        """Waits, while no job ends."""

        def answer() -> bool:
            if question():
                return True
            assert self.launcher.wait(0.25) == []
            return False

        wait_until(answer, what, pause_s=0.0)

    def until_running(self) -> None:
        self.until(lambda: self.state().get("state") == "RUNNING")

    def said(self, job: str = "job0") -> str:
        log = self.folder.jobs / f"{job}.log"
        return log.read_text() if log.exists() else ""

    def state(self, job: str = "job0") -> dict[str, str]:
        path = self.folder.jobs / "states.json"
        return json.loads(path.read_text())["jobs"].get(job, {}) if path.exists() else {}


# A worker is called as `worker.sh PYTHON -m hptransfer.worker RUN JOB ATTEMPT`.
OUTCOME = json.dumps({"schema": 1, **Outcome(state=DONE, loss=1.0, loss_se=0.1).to_json()})
OUTCOMES = f"""trial="$4/trials/trial${{5#job}}"
echo '{OUTCOME}' > "$trial/.new" && mv "$trial/.new" "$trial/outcome.json" """


LISTENER = """
import signal, sys
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(print(f"job {sys.argv[1]} stops: time limit", flush=True) or 75))
print("listens", flush=True)
signal.pause()
"""


def test_a_sweep_is_trained_and_its_folder_has_few_files(here, tmp_path):
    done = command(
        *("sweep", "quickstart", *TINY, "space.lr.low=0.00390625", "space.lr.high=0.25", f"runs={tmp_path}"),
        *("launcher=slurm", "tracker=none", "launcher.poll_min_s=1", "launcher.gpus=1"),
    )
    folder = RunFolder(tmp_path / "quickstart")
    assert set(outcomes(folder).values()) <= {"done", "diverged"}, done.stderr
    jobs = [folder.read_job(path.stem) for path in folder.jobs.glob("[0-9a-f]*.json") if "." not in path.stem]
    assert all(job.scheduler for job in jobs)
    assert (folder.jobs / "slurm.log").read_text() == ""
    assert len(list(folder.jobs.iterdir())) <= 3 * len(jobs) + 3  # json, stacks, log; slurm.log, states, one script


def test_jobs_go_into_arrays_no_larger_than_the_cluster_takes(here, tmp_path):
    bench = Bench(tmp_path)
    assert read_limits(bench.launcher.calls, [], []).array == 1001
    bench.launcher._submission._limits = Limits(array=2)
    numbers = bench.submit(5)
    assert len({number.partition("_")[0] for number in numbers}) == 3
    ended = bench.ends(5)
    assert {one.cause for one in ended.values()} == {None}
    assert bench.launcher.calls.counts["sacct"] <= 20


@pytest.mark.slow
def test_the_user_s_submit_limit_is_known_and_what_exceeds_it_waits(here, tmp_path):
    here.run("sacctmgr", "-i", "modify", "user", "root", "where", "account=test", "set", "MaxSubmitJobs=2")
    try:
        bench = Bench(tmp_path, account="test")
        assert bench.launcher.slots == 2
        for number in range(4):
            bench.job(number)
        assert len(bench.launcher.submit([bench.job(number) for number in range(4)])) == 2
        assert set(bench.ends(4)) == {f"job{number}" for number in range(4)}
    finally:
        here.run("sacctmgr", "-i", "modify", "user", "root", "where", "account=test", "set", "MaxSubmitJobs=-1")


def test_a_partition_that_there_is_not_is_said_in_one_line(here, tmp_path):
    with pytest.raises(StoppedError, match="Invalid partition name specified") as caught:
        Bench(tmp_path, partition="lwo").submit()
    assert "\n" not in str(caught.value)


def test_a_process_that_fails_is_told_from_one_that_is_cancelled(here, tmp_path):
    bench = Bench(tmp_path, "case $5 in job0) exit 3;; job1) kill -9 $$;; *) sleep 300;; esac")
    bench.submit(3)
    ended = bench.ends(2)
    assert {job: one.cause for job, one in ended.items()} == {"job0": KILLED, "job1": KILLED}
    assert "exit code 3" in ended["job0"].detail
    assert "signal 9" in ended["job1"].detail
    bench.launcher.cancel(["job2"])
    assert bench.ends()["job2"].cause == CANCELLED


@pytest.mark.slow
def test_the_warning_before_a_time_limit_reaches_the_worker_itself(here, tmp_path):
    """Sent by hand as the scheduler sends it: the limit itself would take minutes."""
    worker = f"exec {sys.executable} -c '{LISTENER}' $5"
    bench = Bench(tmp_path, worker)
    (number,) = bench.submit()
    bench.until(lambda: bench.said() == "listens\n", "a worker that listens")
    here.run("scancel", "--batch", "--signal=USR2", number)
    assert bench.ends()["job0"].cause == TIME_LIMIT


@pytest.mark.slow
def test_a_node_that_dies_is_told_and_a_job_that_the_cluster_queues_again_has_not_ended(here, tmp_path):
    bench = Bench(tmp_path / "a", "sleep 300", sbatch={"nodelist": "n4", "requeue": None, "no-requeue": True})
    again = Bench(tmp_path / "b", "sleep 300", sbatch={"nodelist": "n4"})
    bench.submit()
    again.submit()
    bench.until_running()
    again.until_running()
    here.fail_node("n4")
    ended = bench.ends()["job0"]
    assert (ended.cause, ended.node) == (NODE_FAILURE, "n4")
    again.until(lambda: again.state().get("state") == "PENDING", "a job in the queue again")
    here.start_node("n4")
    again.until_running()
    again.launcher.cancel(["job0"])
    assert again.ends()["job0"].cause == CANCELLED


@pytest.mark.slow
def test_an_evicted_job_that_may_not_be_queued_again_was_preempted(here, tmp_path):
    bench = Bench(tmp_path, "sleep 300", sbatch={"requeue": None, "no-requeue": True})
    bench.submit()
    bench.until_running()
    here.preempt(nodes=4, seconds=1)
    assert bench.ends()["job0"].cause == PREEMPTED


@pytest.mark.slow
def test_without_accounting_the_queue_and_the_trial_folders_say_what_ended(here, tmp_path):
    bench = Bench(tmp_path, f"[ $5 = job0 ] && exit 3; {OUTCOMES}")
    here.stop_accounting()
    try:
        bench.submit(2)
        ended = bench.ends(2)
    finally:
        here.start_accounting()
    assert {job: one.cause for job, one in ended.items()} == {"job0": KILLED, "job1": None}


@pytest.mark.slow
def test_jobs_outlive_the_controller_and_the_driver(here, tmp_path):
    bench = Bench(tmp_path, f"until [ -e {tmp_path}/end ]; do sleep 0.1; done; {OUTCOMES}")
    (number,) = bench.submit()
    job = bench.job(0, scheduler=number)
    bench.until_running()
    here.stop_controller()
    try:
        bench.launcher.close()
        bench.launcher = bench.open()  # another driver
        assert bench.launcher.adopt([job]) == {"job0"}
    finally:
        here.start_controller()
    (tmp_path / "end").touch()
    assert bench.ends()["job0"].cause is None


def test_a_job_whose_number_was_lost_is_cancelled_by_the_next_driver(here, tmp_path):
    bench = Bench(tmp_path, "sleep 300")
    (number,) = bench.submit()
    bench.launcher = bench.open()  # the first one ended before it wrote the number down
    assert bench.launcher.adopt([bench.job(0)]) == set()
    here.wait_for(lambda: number not in here.jobs(), "the end of the stranger")


def test_set_up_lines_flags_and_gpus_reach_the_worker(here, tmp_path):
    bench = Bench(tmp_path, 'echo "$FLAVOUR $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $SLURM_JOB_PARTITION"; exit 1')
    bench.config.setup, bench.config.gpus, bench.config.cpus = ["export FLAVOUR='vanilla $HOME'"], 2, 2
    bench.config.sbatch = {"partition": "grace"}
    bench.submit()
    bench.ends()
    assert bench.said() == "vanilla $HOME 0,1 2 grace\n"


@pytest.mark.slow
def test_the_driver_itself_can_be_a_job_and_is_queued_again_when_its_time_is_over(here, tmp_path):
    arguments = (
        *("sweep", "quickstart", *TINY, f"runs={tmp_path}", "launcher=slurm", "tracker=none", "driver=slurm"),
        *("launcher.poll_min_s=1", "launcher.driver_time=10", "launcher.driver_memory=1"),
        "grid.tokens.values=[524288]",  # longer than it takes to be refused as a second driver
    )
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    second = command(*arguments)
    assert second.returncode == 5
    assert "a driver in the queue" in second.stderr or "is being driven" in second.stderr
    folder = RunFolder(tmp_path / "quickstart")
    number = first.stdout.split()[2]
    here.wait_for(lambda: locked_by(folder.driver_lock), "a driver that drives")
    here.run("scancel", "--batch", "--signal=USR1", number)  # as the scheduler does before the time limit
    here.wait_for(
        lambda: here.restarts(number) and here.state(number) in ("PENDING", "RUNNING"), "the driver's requeue"
    )
    here.release(number)
    here.wait_for(lambda: here.state(number) in ("COMPLETED", "FAILED"), "the driver's end")
    assert set(outcomes(folder).values()) == {"done"}, (folder.path / "driver.log").read_text()
