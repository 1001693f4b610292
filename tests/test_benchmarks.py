"""The benchmarks' own arithmetic, on numbers that are written by hand; peers and packs, small and on a CPU."""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.driver_overhead import quarters
from benchmarks.gpu import verdict
from benchmarks.overhead import Cost, cost, median, total
from benchmarks.peer_programs.train import train as plain_train
from benchmarks.peers import Grid, batches, difference, our_cost, their_cost, trials_of
from benchmarks.slurm_calls import COMMANDS, Call, counted, per_minute, read_calls
from hptransfer.core.io import write_json
from hptransfer.core.records import DIVERGED, DONE, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.training.config import run_from_json
from hptransfer.training.loop import train
from tests.support.helpers import ROOT

# Runs a script where nothing is installed but PyTorch, what it brings, and numpy.
BARE = """
import runpy, sys
from importlib.machinery import PathFinder

ABSENT = {
    "cmaes", "hydra", "matplotlib", "mlflow", "omegaconf", "optuna", "pandas", "pyarrow", "pytorch_optimizer", "rich",
    "scipy", "sklearn", "submitit", "yaml",
}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bare(script: str, *options: str) -> list[str]:
    """Lines that a benchmark prints on a machine with PyTorch alone."""
    words = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{BARE}", str(ROOT / script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


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


@pytest.mark.slow
def test_a_peer_s_plain_trainer_has_our_losses() -> None:
    """At half and at twice the base width, so that every factor of the parameterization counts, in a stack of three."""
    plan = Grid(widths=(32, 128), depths=(1,), tokens=(50 * 256,), rates=3, windows=64).plan()
    for scale in plan.scales:
        runs = [run_from_json(plan.run(scale, {"lr": lr})) for lr in plan.grids["lr"]]
        ours = [result.loss for result in train(runs, [0, 0, 0], runs[0].data.load())]
        width, handed = int(scale.axes["width"]), batches(runs[0])
        theirs = [plain_train(width, 1, 50 * 256, lr, handed) for lr in plan.grids["lr"]]
        assert theirs == pytest.approx(ours, rel=1e-5)
        assert abs(theirs[0] / theirs[1] - 1) > 1e-2  # another rate is another loss


def test_losses_of_two_methods_are_compared_trial_by_trial() -> None:
    one, two = (32, 2, 4096, 0.01), (32, 2, 4096, 0.1)
    assert difference({one: 2.0, two: None}, {two: None, one: 2.0}) == 0
    assert difference({one: 2.0, two: 4.04}, {one: 2.0, two: 4.0}) == pytest.approx(0.01)
    assert difference({one: 2.0, two: 4.0}, {one: 2.0, two: None}) == math.inf
    assert difference({one: 2.0, two: 4.0}, {one: 2.0}) == math.inf


def test_peers_train_the_quickstart_s_own_trials() -> None:
    trials = trials_of(Grid().plan())
    assert len(trials) == len(set(trials)) == 84
    assert (trials[0], trials[-1]) == ((32, 2, 32_768, 2.0**-9), (128, 4, 65_536, 2.0**-3))


def test_peers_times_are_those_of_their_training_threads(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for lr, loss, started, ended in ((0.01, 2.5, 100.0, 103.0), (0.1, math.nan, 101.0, 104.5)):
        result = {"trial": [32, 2, 4096, lr], "loss": loss, "started": started, "ended": ended, "cpu_s": 1.5}
        (tmp_path / "results" / f"{lr}.json").write_text(json.dumps(result))
    found = their_cost(tmp_path, 9.0)
    assert (found.wall, found.training, found.span) == (9.0, 3.0, 4.5)
    assert found.losses == {(32, 2, 4096, 0.01): 2.5, (32, 2, 4096, 0.1): None}


def test_our_times_are_those_of_stacks(tmp_path: Path) -> None:
    """Two stacks of two, side by side: one from 100 s to 104 s, the other from 101 s to 106 s."""
    plan = Grid(widths=(32,), depths=(2,), tokens=(4096,), rates=4).plan()
    folder = RunFolder(tmp_path)
    folder.create()
    places = zip(plan.grids["lr"], (2.5, 2.6, 2.7, None), (2.0, 2.0, 2.5, 2.5), (104, 104, 106, 106), strict=True)
    for lr, loss, seconds, ended in places:
        trial = plan.trial(plan.scales[0], {"lr": lr}, 0)
        folder.write_trial(trial)
        outcome = Outcome(state=DONE if loss else DIVERGED, loss=loss, seconds=seconds, stack=2)
        write_json(folder.outcome_path(trial.id), outcome.to_json())
        os.utime(folder.outcome_path(trial.id), (ended, ended))
    found = our_cost(tmp_path, 9.0)
    assert (found.wall, found.training, found.span) == (9.0, 9.0, 6.0)
    assert sorted(map(str, found.losses.values())) == ["2.5", "2.6", "2.7", "None"]
    assert found.losses.keys() == set(trials_of(plan))


def test_the_first_and_the_last_quarter_of_the_trials_are_told_apart() -> None:
    waits = [(0, 0.0, 1.0), (1, 0.0, 1.1), (2, 0.0, 1.2), (4, 0.0, 1.6), (6, 0.0, 2.6), (8, 0.0, 3.6)]
    early, late = quarters(waits)  # two trials each; what came before the first wait is no trial's
    assert (early, late) == pytest.approx((0.1, 0.5))


@pytest.mark.slow
def test_packs_are_measured_with_pytorch_alone() -> None:
    lines = bare("benchmarks/gpu.py", "--device=cpu", "--widths", "32", "--packs", "1", "2", "--depth=1")
    assert re.fullmatch(r"matrix products, TFLOP/s: float32 \d\.\d+, bf16 \d\.\d+", lines[1])
    rows = [line.split() for line in lines if line.split()[:1] == ["32"]]
    assert [row[:4] for row in rows] == [
        ["32", precision, "eager", trials] for precision in ("float32", "bf16") for trials in ("1", "2")
    ]
    assert [float(row[6]) for row in rows[::2]] == [1.0, 1.0]
    gain = max(float(row[6]) for row in rows)
    said = re.fullmatch(r"goal: packs at least 8x .* up to 256: (met|not met) \((.*)x at 32\)", lines[-1])
    assert said is not None
    assert float(said[2]) == pytest.approx(gain, abs=0.06)
    assert said[1] == ("met" if gain >= 8 else "not met")


@pytest.mark.slow
def test_what_there_is_no_time_for_is_said() -> None:
    lines = bare("benchmarks/gpu.py", "--device=cpu", "--widths", "32", "--minutes=0")
    assert lines[4:7] == [
        "   32  float32    eager      1 not measured: 0 minutes are over",
        "   32     bf16    eager      1 not measured: 0 minutes are over",
        "",
    ]
    assert lines[-1].endswith("not known, as 32 were not measured")


def test_the_goal_is_one_at_every_width_up_to_256() -> None:
    assert "up to 256: met (8.0x at 64, 9.0x at 256)" in verdict({64: 8.0, 256: 9.0, 512: 1.0}, [64, 256, 512])
    assert "up to 256: not met (12.0x at 64, 7.9x at 256)" in verdict({64: 12.0, 256: 7.9}, [64, 256])
    assert verdict({64: 12.0}, [64, 128, 256]).endswith("not known, as 128, 256 were not measured")
    assert verdict({512: 12.0}, [512]).endswith("not known, as that width was not asked for")


@pytest.mark.slow
def test_memory_of_a_pack_is_measured_against_its_parts() -> None:
    kinds = ("--kinds", "float32", "checkpointing")
    lines = bare("benchmarks/memory.py", "--device=cpu", "--widths", "64", "--packs", "1", "4", "--batch=32", *kinds)
    rows = [line.split() for line in lines if line.split()[:1] == ["64"]]
    assert [row[1:3] for row in rows] == [[kind, trials] for kind in kinds[1:] for trials in ("1", "4")]
    assert [float(row[4]) for row in rows[::2]] == [1.0, 1.0]
    sizes = {(row[1], row[2]): float(row[3]) for row in rows}
    assert sizes["float32", "4"] > sizes["float32", "1"] > 0
    assert sizes["checkpointing", "4"] < sizes["float32", "4"]
