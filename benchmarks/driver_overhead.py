"""Overhead of the driver per trial and at a sweep's start.

    python -m benchmarks.driver_overhead [--trials 1000 4000] [--repeats 3]

Trials train nothing (the runner of benchmarks/scale.py) in real worker processes on this machine. The whole work of the
driver's process is therefore overhead: the files, the workers, Optuna and the display. With MLflow it also includes the
time from opening its library until its last run is written. "CPU" is that of all threads of the driver's process,
without workers. "thread" is the time of the driver's own thread outside of its waits for workers, mostly for writes to
disk. "growth" is the CPU per trial of the largest sweep over that of the smallest.

The start is the quickstart's, with shorter trials, in seconds after the command was called.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale import prepare
from hptransfer.core.io import read_jsonl
from hptransfer.core.records import Job
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import LAUNCHERS, JobEnd, Launcher
from hptransfer.launchers.local import LocalConfig, LocalLauncher, assign_gpus

ROOT = Path(__file__).parents[1]
LIMIT_S = 1800
GOALS_MS = {"mlflow": 25.0, "none": 5.0}
"""Most CPU of the driver per trial."""
SHORT = ("grid.tokens.values=[4096]", "target.tokens=4096", "space.lr.extend=0", "budget.trials=8")


@LAUNCHERS.register("timed")
@dataclass(kw_only=True)
class TimedConfig(LocalConfig):
    name: str = "timed"

    def open(self, folder: Path, gpus: int) -> Launcher:
        pinned = assign_gpus([], 1, self.num_slots(gpus))
        return Timed(folder, pinned, threads=1, checkpoint_s=self.checkpoint_s, stack=self.stack)


class Timed(LocalLauncher):
    """The local launcher, with a clock.

    Attributes:
        submitted: time of the first submission, in seconds since 1970.
        waits: for each wait: number of ended jobs, seconds of the driver's thread outside of waits, its CPU seconds.
    """

    def __init__(
        self, folder: Path, pinned: Sequence[Sequence[str]], *, threads: int, checkpoint_s: int, stack: int
    ) -> None:
        super().__init__(folder, pinned, threads=threads, checkpoint_s=checkpoint_s, stack=stack)
        self.submitted: float | None = None
        self.waits: list[tuple[int, float, float]] = []
        self._ended_jobs, self._outside_s, self._left = 0, 0.0, time.perf_counter()
        OPENED.append(self)

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        self.submitted = self.submitted or time.time()
        return super().submit(jobs)

    def wait(self, timeout_s: float) -> list[JobEnd]:
        self._outside_s += time.perf_counter() - self._left
        self.waits.append((self._ended_jobs, self._outside_s, time.thread_time()))
        ended = super().wait(timeout_s)
        self._ended_jobs += len(ended)
        self._left = time.perf_counter()
        return ended


OPENED: list[Timed] = []


def drive(words: Sequence[str]) -> None:
    """Run `hptransfer sweep` up to the analysis; print marks as JSON.

    Args:
        words: time of the command, the sweep, overrides.
    """
    called = float(words[0])
    marks: dict[str, tuple[float, float]] = {}

    def mark(name: str) -> None:
        marks[name] = time.time() - called, time.process_time()

    mark("Python, this program")
    from hptransfer.cli.main import main as command
    from hptransfer.config.compose import compose

    assert callable(command)
    mark("command line, Hydra")
    config = compose(words[1], words[2:])
    mark("sweep composed, PyTorch")
    from hptransfer.planning.plan import make_plan

    plan = make_plan(config)
    mark("planned, data read")
    from hptransfer.analysis.pipeline import analyze_run  # the command opens it before it trains
    from hptransfer.cli.verb import make_console
    from hptransfer.planning.trial_set import TrialSet
    from hptransfer.session.session import session

    assert callable(analyze_run)
    mark("analysis opened")
    started = time.process_time()
    with session(plan, make_console()) as open_session:
        mark("folder taken, snapshot")
        report = open_session.train(TrialSet.sweep(plan))
        trained = time.time()
    closed = time.time()
    (launcher,) = OPENED
    assert launcher.submitted is not None
    for name, when in first(plan.config.folder, launcher.submitted).items():
        marks[name] = when - called, 0.0
    found = {
        "marks": marks,
        "trials": report.progress.count(),
        "cpu_s": time.process_time() - started,
        "outside_s": launcher.waits[-1][1],
        "wall_s": trained - called - marks["folder taken, snapshot"][0],
        "after_s": closed - trained,
        "waits": launcher.waits,
    }
    print(json.dumps(found))


def first(folder: RunFolder, submitted: float) -> dict[str, float]:
    """Return the times of the first submission, lease and curve's point."""
    leases = [json.loads(path.read_text())["since"] for path in folder.path.glob("trials/*/lease")]
    points = [read_jsonl(path)[0]["time"] for path in folder.path.glob("trials/*/metrics.jsonl")]
    return {"first jobs submitted": submitted, "first trial taken": min(leases), "first point": min(points)}


def call(place: Path, *words: str) -> dict[str, Any]:
    """Drive a sweep in a separate process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    program = "import sys; from benchmarks.driver_overhead import drive; drive(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(time.time()), *words, "launcher=timed"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def quarters(waits: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Return the driver's CPU seconds per trial in first and last quarter."""
    most = waits[-1][0]

    def at(share: float) -> tuple[int, float, float]:
        return next(wait for wait in waits if wait[0] >= share * most)

    def cost(begin: tuple[int, float, float], end: tuple[int, float, float]) -> float:
        return (end[2] - begin[2]) / (end[0] - begin[0])

    return cost(waits[0], at(0.25)), cost(at(0.75), waits[-1])


def a_trial(place: Path, sizes: Sequence[int]) -> None:
    """Print the cost per trial in sweeps of several sizes."""
    print("a trial, ms    trials   CPU  at most  thread   sweep   MLflow goes on for, s")
    for tracker, goal in GOALS_MS.items():
        costs: list[tuple[int, float]] = []
        for size in sizes:
            inner = place / f"{tracker}-{size}"
            inner.mkdir()
            prepare(inner, size)
            depths = list(range(1, size // 500 + 1))  # each with five widths, ten rates and ten seeds
            grid = "grid.width.values=[32,64,128,256,512]", f"grid.depth.values={depths}"
            found = call(inner, "many.yaml", f"tracker={tracker}", *grid)
            trials = found["trials"]
            cpu, thread, wall = (1000 * found[key] / trials for key in ("cpu_s", "outside_s", "wall_s"))
            costs.append((trials, 1000 * found["cpu_s"]))
            print(
                f"  {tracker:<10}{trials:>10,}{cpu:>6.1f}{goal:>9g}{thread:>8.1f}{wall:>8.1f}{found['after_s']:>9.1f}",
                flush=True,
            )
            early, late = quarters(found["waits"])
            print(f"{'':<13}last quarter's trials over the first's, CPU of the thread: {late / early:.2f}", flush=True)
            shutil.rmtree(inner)
        (few, least), (many, most) = costs[0], costs[-1]
        if many > few:
            further = (most - least) / (many - few)
            print(f"{'':<13}a further one: {further:.1f} ms of CPU; growth {most / many * few / least:.2f}", flush=True)


def the_start(place: Path, repeats: int) -> None:
    """Print the times at which the parts of a start end.

    The driver's CPU time is printed too. Both are medians.
    """
    runs: dict[str, list[dict[str, list[float]]]] = {tracker: [] for tracker in GOALS_MS}
    for repeat in range(repeats):
        for tracker, marks in runs.items():
            where = f"runs={place / f'{tracker}-{repeat}'}"
            marks.append(call(place, "quickstart", *SHORT, f"tracker={tracker}", where)["marks"])
    print(f"{'the start, s after the command':<34}" + "".join(f"{tracker:>10}{'CPU':>6}" for tracker in runs))
    for name in runs["none"][0]:
        line = f"  {name:<32}"
        for marks in runs.values():
            wall, cpu = (statistics.median(found[name][which] for found in marks) for which in (0, 1))
            line += f"{wall:>10.2f}{f'{cpu:.2f}' if cpu else '':>6}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[1000, 4000], help="multiples of 500; 10000 too, given the time"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of the start")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(prefix="hptransfer-driver-") as folder:
        a_trial(Path(folder), arguments.trials)
        the_start(Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
