"""The benchmarks' own arithmetic, on numbers that are written by hand."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.driver_overhead import quarters
from benchmarks.overhead import Cost, cost, median, total
from benchmarks.slurm_calls import COMMANDS, Call, counted, per_minute, read_calls


def stand_ins(folder: Path) -> dict[str, str]:
    """An environment whose SLURM commands print their arguments."""
    folder.mkdir()
    for command in COMMANDS:
        (folder / command).write_text('#!/bin/sh\necho "$@"\n')
        (folder / command).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_every_call_is_noted_and_handed_on(tmp_path: Path) -> None:
    environment = counted(tmp_path / "noted", stand_ins(tmp_path / "real"))
    for words in (["sacct", "--jobs=1,2"], ["sbatch", "a b"], ["sacct", ""]):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{words[1]}\n"
    assert [call.command for call in read_calls(tmp_path / "noted")] == ["sacct", "sbatch", "sacct"]


def test_calls_a_minute_are_those_between_two_moments() -> None:
    calls = [Call(moment, "sacct") for moment in (9.9, 10.0, 25.0, 40.0)] + [Call(12.0, "squeue")]
    assert per_minute(calls, 10.0, 40.0) == {"sacct": 4.0, "squeue": 2.0}


def test_a_sweep_s_time_is_told_apart() -> None:
    calls = [Call(102.0, "sbatch"), Call(130.0, "sacct")]
    jobs = [Call(moment, what) for moment, what in ((104.0, "begin"), (107.0, "end"), (106.0, "begin"), (109.5, "end"))]
    found = cost((100.0, 112.0), 1.5, calls, jobs, [2.0, 2.0], 9)
    assert found == Cost(
        wall=12.0,
        cpu=1.5,
        before=2.0,
        after=2.5,
        training=4.0,
        overhead=1.25,  # of 3 s and 3.5 s
        queue=3.0,  # of 2 s and 4 s
        calls=Counter({"sbatch": 1, "sacct": 1}),
        files=4.5,
    )
    assert total(found) == 4.25


def test_a_job_that_was_not_seen_to_end_is_no_number() -> None:
    with pytest.raises(SystemExit, match="2 jobs that began and 1 that ended"):
        cost((0, 9), 1, [Call(1, "sbatch")], [Call(1, "begin"), Call(2, "begin"), Call(3, "end")], [1.0, 1.0], 0)


def test_the_middle_is_of_each_number_by_itself() -> None:
    def one(wall: float, queue: float, calls: int) -> Cost:
        return Cost(
            wall=wall,
            cpu=1,
            before=0,
            after=0,
            training=1,
            overhead=1,
            queue=queue,
            calls=Counter(sacct=calls),
            files=1,
        )

    found = median([one(1, 9, 3), one(2, 1, 1), one(5, 2, 2)])
    assert (found.wall, found.queue, found.calls) == (2, 2, Counter(sacct=2))


def test_the_first_and_the_last_quarter_of_the_trials_are_told_apart() -> None:
    waits = [(0, 0.0, 1.0), (1, 0.0, 1.1), (2, 0.0, 1.2), (4, 0.0, 1.6), (6, 0.0, 2.6), (8, 0.0, 3.6)]
    early, late = quarters(waits)  # two trials each; what came before the first wait is no trial's
    assert (early, late) == pytest.approx((0.1, 0.5))
