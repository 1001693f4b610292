"""launcher=local on a machine with several GPUs, of which there need be none here: workers only print what they see."""

import sys
from pathlib import Path

import pytest

from hptransfer.core.records import KILLED, OUT_OF_MEMORY, Job, Scale
from hptransfer.launchers import num_cores
from hptransfer.launchers.local import LocalConfig
from hptransfer.testing.launchers import ended_jobs
from tests.support.helpers import ONE_SCALE, tiny
from tests.support.scripted import Scripted, playing, train
from tests.support.views import sweep

PYTHON = sys.executable
WORKER = """
import os, pathlib, sys
for line in sys.stdin:
    job = line.strip()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"]
    pathlib.Path(sys.argv[-1], job).write_text(" ".join(map(str, seen)))
    print(job, flush=True)
"""


def job(number: int) -> Job:
    return Job(id=f"job{number}", trials=[], scale=Scale({"width": 1}), params=1, flops=1.0)


def interpreter_of(worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has launchers start this program as their worker."""
    interpreter = tmp_path / "python"
    (tmp_path / "worker.py").write_text(worker)
    interpreter.write_text(f'#!/bin/sh\nexec {PYTHON} {tmp_path}/worker.py "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr("hptransfer.launchers.local.sys.executable", str(interpreter))


def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: LocalConfig, *, devices_there: int) -> list[str]:
    """What each of the workers sees, in the order of the slots."""
    interpreter_of(WORKER, tmp_path, monkeypatch)
    launcher = config.open(tmp_path, devices_there)
    slots = launcher.slots
    jobs = [job(number) for number in range(slots)]
    try:
        launcher.submit(jobs)
        ended = ended_jobs(launcher, slots)
    finally:
        launcher.close()
    assert {one.cause for one in ended} == {None}
    return [(tmp_path / job.id).read_text() for job in jobs]


def test_every_worker_sees_one_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, LocalConfig(), devices_there=4) == ["0 1", "1 1", "2 1", "3 1"]


def test_more_workers_than_gpus_share_them_evenly(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, LocalConfig(workers=4), devices_there=2) == ["0 1", "1 1", "0 1", "1 1"]


@pytest.mark.parametrize("outer", ["3,5", "GPU-8f3c,MIG-77aa", " 3, 5"])
def test_devices_that_were_chosen_outside_stay_the_choice(tmp_path, monkeypatch, outer):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    names = [name.strip() for name in outer.split(",")]
    assert devices(tmp_path, monkeypatch, LocalConfig(workers=3), devices_there=2) == [
        f"{name} 1" for name in (*names, names[0])
    ]


def test_a_worker_may_have_several_gpus_and_what_is_left_over_stays_idle(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, LocalConfig(gpus=2), devices_there=5) == ["0,1 1", "2,3 1"]
    assert devices(tmp_path, monkeypatch, LocalConfig(gpus=2, workers=3), devices_there=5)[2] == "0,1 1"
    assert devices(tmp_path, monkeypatch, LocalConfig(gpus=2), devices_there=1) == ["0 1"]


def test_without_gpus_nothing_is_pinned(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, LocalConfig(workers=2, threads=2), devices_there=0) == ["None 2", "None 2"]


@pytest.mark.parametrize(("workers", "gpus", "slots"), [(0, 4, 4), (8, 4, 8), (2, 4, 2), (3, 0, 3)])
def test_there_is_a_worker_for_every_gpu_unless_told_otherwise(workers, gpus, slots):
    assert LocalConfig(workers=workers).num_slots(gpus) == slots


@pytest.mark.parametrize(
    ("kills", "signal", "cause"), [(1, "KILL", OUT_OF_MEMORY), (0, "KILL", KILLED), (1, "SEGV", KILLED)]
)
def test_a_worker_that_the_kernel_ended_for_its_memory_is_told_from_others(
    kills: int, signal: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does: a count that is larger, and SIGKILL."""
    counts = tmp_path / "vmstat"
    counts.write_text("pgfault 9\noom_kill 3\nfoo 1\n")
    monkeypatch.setattr("hptransfer.launchers.local.VMSTAT", counts)
    later = f"import os, pathlib, signal; input(); pathlib.Path({str(counts)!r}).write_text('oom_kill {3 + kills}\\n')"
    interpreter_of(f"{later}; os.kill(os.getpid(), signal.SIG{signal})", tmp_path, monkeypatch)
    launcher = LocalConfig(workers=1).open(tmp_path, 0)
    try:
        launcher.submit([job(0)])
        (ended,) = ended_jobs(launcher, 1)
    finally:
        launcher.close()
    assert ended.cause == cause
    assert ended.seconds is not None
    assert 0 < ended.seconds < 600


@pytest.mark.slow
def test_more_workers_than_cores_are_noted(tmp_path: Path) -> None:
    """A script's may wait for something else, so they are not refused."""
    assert LocalConfig(workers=num_cores()).note() is None
    assert LocalConfig(threads=num_cores()).note() is None
    more = num_cores() + 1
    settings = ("launcher=local", f"launcher.workers={more}", "tracker=none", *ONE_SCALE)
    with playing(Scripted(train)):
        said = sweep(tiny(tmp_path, *settings, inline=False))
    assert f"x launcher.threads is {more}, but this machine has {num_cores()} cores" in " ".join(said.split())
