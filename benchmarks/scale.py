"""Time, memory and files of a sweep of ten thousand trials.

    python benchmarks/scale.py [--trials 10000] [--in-flight 1000] [--keep DIR]

Trials train nothing: the launcher in this file writes the outcomes of all jobs in flight while the driver waits for
them. A tick is the driver's work between two such waits. Each verb runs in a separate process, as a user would run it.
The launcher and the runner are found by entry points, as those of any other package. The runner ends its trials at once
on other launchers too (benchmarks/driver_overhead.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.io import append_jsonl, write_json
from hptransfer.core.records import DONE, Job, Outcome, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import LAUNCHERS, JobEnd, Launcher
from hptransfer.launchers.inline import InlineConfig
from hptransfer.worker.runners import RUNNERS, OnTrialEnd, Size, StackContext
from hptransfer.worker.runners.builtin import BuiltinRunner

LIMIT_S = 540.0
IDLE_WAITS = 5
"""Number of waits without an end before each wait that ends all jobs, for the cost of a tick in training."""
SWEEP = """\
defaults: [sweep, run: builtin, run/model: mlp, run/optimizer: adamw, run/data: digits, sampler: grid, launcher: scale,
           tracker: none, _self_]
name: scale
run: {{runner: scale, parameterization: mup, base: {{width: 64, depth: 2}}}}
grid:
  width: {{path: run.model.width, values: {widths}}}
  depth: {{path: run.model.depth, values: {depths}}}
space:
  lr: {{path: run.optimizer.lr, low: 0.0001, high: 0.05, count: 10, extend: 0}}
seeds: {seeds}
target: {{width: 8192}}
"""
ENTRY_POINTS = """\
[hptransfer.runner]
scale = scale
[hptransfer.launcher]
scale = scale
"""


class Nothing(BuiltinRunner):
    """Runner that trains nothing: costs and losses by formulas."""

    def size(self, run: Mapping[str, Any]) -> Size:
        params = run["model"]["width"] ** 2 * run["model"]["depth"]
        return Size(params, 6.0 * params * 1000)

    def fingerprint(self, run: Mapping[str, Any]) -> str:
        return "none"

    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        return {"decay": None, "groups": {}, "branch_multiplier": None}

    def gpus(self) -> int:
        return 0

    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        return 1

    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        return 1e9

    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: OnTrialEnd, context: StackContext) -> None:
        for trial in trials:
            finish(trial, outcome_of(trial, folder))


def outcome_of(trial: Trial, folder: RunFolder) -> Outcome:
    """Return an outcome: a parabola's loss with noise, one point of curve."""
    noise = random.Random(trial.id).gauss(0, 0.003)
    off = math.log2(trial.tuned["lr"] / 0.003) + 0.5 * math.log2(trial.scale.axes["width"] / 64)
    loss = 2.0 + 0.02 * off**2 + noise
    append_jsonl(folder.curve_path(trial.id), [{"step": 1, "tokens": 1, "loss": loss, "time": time.time()}])
    return Outcome(state=DONE, loss=loss, loss_se=0.003, initial_loss=3.0, steps=100, seconds=10.0)


@dataclass(kw_only=True)
class AtOnceConfig(InlineConfig):
    name: str = "scale"

    def num_slots(self, gpus: int) -> int:
        return int(os.environ["SCALE_IN_FLIGHT"])

    def open(self, folder: Path, gpus: int) -> Launcher:
        return AtOnce(RunFolder(folder), self.num_slots(gpus))


class AtOnce(Launcher):
    """Launcher that ends every job in flight at each sixth wait.

    It records the time of the driver between two waits.
    """

    def __init__(self, folder: RunFolder, slots: int) -> None:
        self._folder, self._slots = folder, slots
        self._jobs: dict[str, Job] = {}
        self._waits, self._left = 0, time.perf_counter()
        self._ticks: list[dict[str, float]] = []
        self._ended = 0

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        self._jobs |= {job.id: job for job in jobs}
        return {}

    def adopt(self, jobs: Sequence[Job]) -> set[str]:
        return set()

    def wait(self, timeout_s: float) -> list[JobEnd]:
        self._ticks.append({"seconds": time.perf_counter() - self._left, "ended": self._ended, "open": len(self._jobs)})
        self._waits += 1
        ended = []
        if self._waits % (IDLE_WAITS + 1) == 0:
            ended = [JobEnd(job) for job in self._jobs]
            for job in self._jobs.values():
                self._finish(job)
            self._jobs = {}
        self._ended = len(ended)
        self._left = time.perf_counter()
        return ended

    def _finish(self, job: Job) -> None:
        for trial_id in job.trials:
            outcome = outcome_of(self._folder.read_trial(trial_id), self._folder)
            write_json(self._folder.outcome_path(trial_id), outcome.to_json())

    def cancel(self, jobs: Collection[str]) -> None:
        for job in jobs:
            self._jobs.pop(job, None)

    def close(self) -> None:
        (self._folder.path.parent / "ticks.json").write_text(json.dumps(self._ticks))


RUNNERS.register("scale")(Nothing())
LAUNCHERS.register("scale")(AtOnceConfig)


@dataclass
class Call:
    """Cost of one command."""

    seconds: float
    cpu_s: float
    megabytes: float


def call(place: Path, in_flight: int, *words: str) -> Call:
    """Run the command line in a folder with this file as package."""
    paths = [str(place), str(Path(__file__).parents[1])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "SCALE_IN_FLIGHT": str(in_flight),
        "OMP_NUM_THREADS": "1",
    }
    started = time.perf_counter()
    with (place / "printed").open("w+") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "hptransfer.cli.main", *words],
            cwd=place,
            env=environment,
            stdout=printed,
            stderr=printed,
        )
        while True:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            if time.perf_counter() - started > LIMIT_S:
                process.kill()
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode} after {seconds:.0f} s\n{text[-2000:]}")
    return Call(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def prepare(place: Path, trials: int) -> int:
    """Write the sweep and the package, and return the number of trials.

    A scale has ten values and ten seeds.
    """
    widths = [32 * 2**step for step in range(8)] if trials >= 800 else [32, 64, 128]
    depths = list(range(1, max(1, round(trials / 100 / len(widths))) + 1))
    (place / "many.yaml").write_text(SWEEP.format(widths=widths, depths=depths, seeds=10))
    shutil.copy(__file__, place / "scale.py")
    package = place / "scale-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: scale\nVersion: 1\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    return len(widths) * len(depths) * 100


def inodes(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


def row(what: str, seconds: float, limit_s: float | None = None, cost: Call | None = None) -> None:
    limit = "" if limit_s is None else f"{limit_s:g}"
    more = f"{cost.cpu_s:>9.2f} {cost.megabytes:>6.0f}" if cost else ""
    print(f"{what:<58} {seconds:>9.2f} {limit:>9} {more}".rstrip(), flush=True)


def verb(place: Path, in_flight: int, limit_s: float | None, what: str, *words: str) -> None:
    """Run a verb, and print its cost."""
    cost = call(place, in_flight, *words)
    row(what, cost.seconds, limit_s, cost)


def measure(place: Path, trials: int, in_flight: int) -> None:
    number = prepare(place, trials)
    print(f"{number:,} trials, {in_flight:,} in flight; {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    print(f"{'':<58} {'seconds':>9} {'at most':>9} {'CPU s':>9} {'MB':>6}")
    verb(place, in_flight, 10, "plan", "plan", "many.yaml")
    verb(place, in_flight, None, "sweep, all of it (with the outcomes' writing)", "sweep", "many.yaml")
    ticks = json.loads((place / "runs" / "ticks.json").read_text())
    row("  start: folders of all trials made, the first jobs submitted", ticks[0]["seconds"])
    idle = [tick["seconds"] for tick in ticks[1:] if not tick["ended"]]
    busy = [tick["seconds"] for tick in ticks[1:] if tick["ended"]]
    row("  tick, nothing ended: median", statistics.median(idle), 2)
    row("  tick, nothing ended: longest", max(idle), 2)
    if busy:
        ended = max(tick["ended"] for tick in ticks)
        row(f"  tick, {ended:,} jobs ended and as many submitted: median", statistics.median(busy), 2)
        row("  the same, longest", max(busy), 2)
    verb(place, in_flight, None, "sweep again, all done (with its analysis)", "sweep", "many.yaml")
    verb(place, in_flight, 3, "status", "status", "scale")
    verb(place, in_flight, None, "analyze", "analyze", "scale")
    folder = place / "runs" / "scale"
    of_trials, of_jobs = inodes(folder / "trials"), inodes(folder / "jobs")
    print(
        f"inodes: {of_trials / number:.2f} a trial (its folder too; a lease comes to it where a worker trains), "
        f"{of_jobs / number:.2f} a job (a worker adds stacks and log), "
        f"{inodes(folder) - of_trials - of_jobs} for the run"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--keep", type=Path, help="works there and leaves it; else in a temporary folder")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        measure(arguments.keep, arguments.trials, arguments.in_flight)
        return
    with tempfile.TemporaryDirectory(prefix="hptransfer-scale-") as place:
        measure(Path(place), arguments.trials, arguments.in_flight)


if __name__ == "__main__":
    main()
