"""launcher=local on a machine with several GPUs, of which there need be none here: workers only print what they see."""

import sys
import time
from pathlib import Path

import pytest

from hptransfer.core.records import Job, Scale
from hptransfer.sweep.launchers.local import Local, LocalConfig

WORKER = """
import os, pathlib, sys
for line in sys.stdin:
    job = line.strip()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"]
    pathlib.Path(sys.argv[-1], job).write_text(" ".join(map(str, seen)))
    print(job, flush=True)
"""


def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, slots: int, gpus: int, threads: int = 1) -> list[str]:
    """What each of the workers sees, in the order of the slots."""
    interpreter = tmp_path / "python"
    (tmp_path / "worker.py").write_text(WORKER)
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/worker.py "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr("hptransfer.sweep.launchers.local.sys.executable", str(interpreter))
    launcher = Local(tmp_path, slots=slots, threads=threads, gpus=gpus)
    jobs = [Job(id=f"job{n}", trials=[], scale=Scale({"width": 1}), params=1, flops=1.0) for n in range(slots)]
    try:
        launcher.submit(jobs)
        ended, deadline = [], time.monotonic() + 30
        while len(ended) < slots and time.monotonic() < deadline:
            ended += launcher.wait(1.0)
    finally:
        launcher.close()
    assert {one.cause for one in ended} == {None}
    return [(tmp_path / job.id).read_text() for job in jobs]


def test_every_worker_sees_one_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, slots=4, gpus=4) == ["0 1", "1 1", "2 1", "3 1"]


def test_more_workers_than_gpus_share_them_evenly(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, slots=4, gpus=2) == ["0 1", "1 1", "0 1", "1 1"]


@pytest.mark.parametrize("outer", ["3,5", "GPU-8f3c,MIG-77aa", " 3, 5"])
def test_devices_that_were_chosen_outside_stay_the_choice(tmp_path, monkeypatch, outer):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outer)
    names = [name.strip() for name in outer.split(",")]
    assert devices(tmp_path, monkeypatch, slots=3, gpus=2) == [f"{name} 1" for name in (*names, names[0])]


def test_without_gpus_nothing_is_pinned(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(tmp_path, monkeypatch, slots=2, gpus=0, threads=2) == ["None 2", "None 2"]


@pytest.mark.parametrize(("workers", "gpus", "slots"), [(0, 4, 4), (8, 4, 8), (2, 4, 2), (3, 0, 3)])
def test_there_is_a_worker_for_every_gpu_unless_told_otherwise(workers, gpus, slots):
    assert LocalConfig(workers=workers).num_slots(gpus) == slots
