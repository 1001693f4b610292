"""Overhead of a trial on a cluster: hptransfer, submitit and Hydra.

    python -m benchmarks.overhead [--trials 24] [--seconds 2] [--repeats 3]

hptransfer, plain submitit and Hydra's submitit launcher run the same script in turns on one cluster of eight cores,
that of the tests. A job begins and ends with the node's prolog and epilog; it is submitted when sbatch is called. Hydra
is installed into a separate environment. Peers only run their trials; hptransfer also watches, fits and writes its
report.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.slurm_calls import Call, counted, read_calls
from tests.slurm.cluster import Cluster, cluster, obstacle

ROOT = Path(__file__).parents[1]
SWEEP_S = 150
INSTALL_S = 400
HYDRA = ("hydra-core<1.4", "hydra-submitit-launcher")
WIDTHS = (8, 16, 32)
TRIAL = """\
import json, math, pathlib, sys, time

started = time.time()
marks, seconds, width, lr = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
while time.time() < started + seconds:
    time.sleep(0.01)
print(f"loss={1 + 1 / width + math.log2(lr / 0.1) ** 2 / 10}", flush=True)
mark = {"started": started, "ended": time.time()}
pathlib.Path(marks, f"{width}-{lr}.json").write_text(json.dumps(mark))
"""
# The peers' code in a job: the same command, with the metric read from its output.
TRAIN = """\
import subprocess

def train(width, lr):
    command = [{python!r}, {trial!r}, {marks!r}, "{seconds}", str(width), str(lr)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.partition("loss=")[2])
"""
SUBMITIT = """\
import submitit
from train import train

executor = submitit.AutoExecutor(folder="out")
executor.update_parameters(timeout_min=10, cpus_per_task=1, slurm_array_parallelism=1000)
jobs = executor.map_array(train, *zip(*[(width, lr) for width in {widths} for lr in {rates}]))
print(min(job.result() for job in jobs))
"""
APP = """\
import hydra
from train import train

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    return train(config.width, config.lr)

main()
"""
SWEEP = """\
defaults: [sweep, run: script, sampler: grid, launcher: slurm, tracker: none, _self_]
name: out
runs: .
run:
  command: [{python}, {trial}, {marks}, "{seconds}", "{{width}}", "{{lr}}"]
  params: width
  tokens: 100
  metric: {{pattern: "loss=(?P<loss>.*)"}}
grid:
  width: {{values: {widths}}}
space:
  lr: {{low: {low}, high: {high}, count: {count}, extend: 0}}
target: {{width: 64}}
launcher: {{time: 10}}
"""
PROLOG = '#!/bin/bash\necho "$EPOCHREALTIME {what}" >> {log}\n'


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one sweep, in seconds.

    Attributes:
        wall: from the command's start to its end.
        cpu: CPU time of the command and its child processes, without its jobs.
        before: from the command's start to the first submission.
        after: from the last job's end to the command's end.
        training: of all trials together, by the script's own clock.
        overhead: of a trial: the time of its job on its node, without training.
        queue: of a trial: from the submission to its job's start.
        calls: number of calls of SLURM's commands, by the command and by its jobs.
        files: number per trial, at the end.
    """

    wall: float
    cpu: float
    before: float
    after: float
    training: float
    overhead: float
    queue: float
    calls: Counter[str]
    files: float


def cost(
    span: tuple[float, float],
    cpu: float,
    calls: Sequence[Call],
    jobs: Sequence[Call],
    trainings: Sequence[float],
    num_files: int,
) -> Cost:
    """Return a sweep's cost from the records of its run.

    Args:
        span: start and end of its command.
        jobs: `begin` and `end` of every job.
        trainings: seconds of every trial.
    """
    trials = len(trainings)
    began = [job.time for job in jobs if job.command == "begin"]
    ended = [job.time for job in jobs if job.command == "end"]
    if not len(began) == len(ended) == trials:
        raise SystemExit(f"{trials} trials, but {len(began)} jobs that began and {len(ended)} that ended")
    submitted = [call.time for call in calls if call.command == "sbatch"]
    return Cost(
        wall=span[1] - span[0],
        cpu=cpu,
        before=submitted[0] - span[0],
        after=span[1] - max(ended),
        training=sum(trainings),
        overhead=(sum(ended) - sum(began) - sum(trainings)) / trials,
        queue=sum(began) / trials - submitted[0],
        calls=Counter(call.command for call in calls),
        files=num_files / trials,
    )


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of every number.

    The calls are those of the sweep with the median number of calls.
    """
    numbers = ("wall", "cpu", "before", "after", "training", "overhead", "queue", "files")
    found = {name: statistics.median(getattr(one, name) for one in costs) for name in numbers}
    middle = sorted(costs, key=lambda one: one.calls.total())[len(costs) // 2]
    return Cost(calls=middle.calls, **found)


class Bench:
    """Three methods on one cluster."""

    def __init__(self, place: Path, slurm: Cluster, hydra: Path, trials: int, seconds: float) -> None:
        self._place, self._slurm, self._hydra = place, slurm, hydra
        self._count, self._seconds = trials // len(WIDTHS), seconds
        self._rates = [0.01 * 100 ** (step / (self._count - 1)) for step in range(self._count)]
        self._runs = 0
        (place / "trial.py").write_text(TRIAL)

    def run(self, method: str) -> Cost:
        """Run one sweep in a separate folder."""
        self._runs += 1
        folder = self._place / f"{self._runs}-{method}"
        marks, work = folder / "marks", folder / "work"
        marks.mkdir(parents=True)
        work.mkdir()
        environment = counted(folder / "calls", {**self._slurm.environment, "PYTHONPATH": str(work)})
        environment["OMP_NUM_THREADS"] = "1"
        command = self._prepare(method, work, marks)
        if method == "hptransfer":
            environment["PYTHONPATH"] = str(ROOT)
        log = jobs_log(self._place)
        log.write_text("")
        start, cpu = time.time(), children_s()
        with (folder / "printed").open("w") as printed:
            done = subprocess.run(
                command, cwd=work, env=environment, stdout=printed, stderr=printed, timeout=SWEEP_S, check=False
            )
        span, cpu = (start, time.time()), children_s() - cpu
        if done.returncode:
            raise SystemExit(f"{method}: exit code {done.returncode}\n{(folder / 'printed').read_text()[-3000:]}")
        self._slurm.wait_for(lambda: log.read_text().count("end") >= len(WIDTHS) * self._count, "epilogs")
        values = [json.loads(path.read_text()) for path in marks.iterdir()]
        trainings = [mark["ended"] - mark["started"] for mark in values]
        files = sum(path.is_file() for path in (work / "out").rglob("*"))
        return cost(span, cpu, read_calls(folder / "calls"), read_calls(log.parent), trainings, files)

    def _prepare(self, method: str, work: Path, marks: Path) -> list[str]:
        """Write a method's files, and return its command."""
        names = {"python": sys.executable, "trial": str(self._place / "trial.py"), "marks": str(marks)}
        names["seconds"] = f"{self._seconds:g}"
        widths = list(WIDTHS)
        (work / "train.py").write_text(TRAIN.format(**names))
        (work / "plain.py").write_text(SUBMITIT.format(widths=widths, rates=self._rates))
        (work / "app.py").write_text(APP)
        bounds = {"low": self._rates[0], "high": self._rates[-1], "count": self._count}
        (work / "out.yaml").write_text(SWEEP.format(**names, **bounds, widths=widths))
        launcher = [f"hydra.launcher.{setting}" for setting in ("timeout_min=10", "array_parallelism=1000")]
        swept = [f"width={','.join(map(str, widths))}", f"lr={','.join(map(str, self._rates))}"]
        return {
            "hptransfer": [sys.executable, "-m", "hptransfer.cli.main", "sweep", "out.yaml"],
            "submitit": [sys.executable, "plain.py"],
            "hydra": [str(self._hydra), "app.py", "--multirun", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=out"]
            + [f"+{word}" for word in swept]
            + launcher,
        }[method]


def children_s() -> float:
    """Return the CPU time of ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def jobs_log(place: Path) -> Path:
    return place / "jobs" / "calls"


def settings(place: Path) -> dict[str, str]:
    """Lines of slurm.conf by which nodes note when jobs begin and end."""
    jobs_log(place).parent.mkdir()
    found = {"PrologFlags": "Alloc"}
    for key, what in (("Prolog", "begin"), ("Epilog", "end")):
        program = place / key
        program.write_text(PROLOG.format(what=what, log=jobs_log(place)))
        program.chmod(0o755)
        found[key] = str(program)
    return found


def install_hydra(place: Path) -> Path:
    """Make an environment with Hydra, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=INSTALL_S)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *HYDRA], check=True, timeout=INSTALL_S)
    return python


def show(methods: dict[str, list[Cost]]) -> None:
    middle = {name: median(costs) for name, costs in methods.items()}
    heads = ("wall s", "CPU s", "before", "after", "training", "node s", "queue s", "calls", "files")
    print(f"{'':<11}" + "".join(f"{head:>10}" for head in heads))
    for name, one in middle.items():
        numbers = (one.wall, one.cpu, one.before, one.after, one.training, one.overhead, one.queue)
        print(f"{name:<11}" + "".join(f"{number:>10.2f}" for number in numbers), end="")
        print(f"{one.calls.total():>10}{one.files:>10.2f}   {dict(sorted(one.calls.items()))}")
    ours = middle.pop("hptransfer")
    for name, one in middle.items():
        print(
            f"hptransfer over {name}: wall {ours.wall / one.wall:.2f}, overhead of a trial on its node "
            f"{ours.overhead / one.overhead:.2f}, with its queue {total(ours) / total(one):.2f}, "
            f"calls {ours.calls.total() / one.calls.total():.2f}, files {ours.files / one.files:.2f}"
        )


def total(one: Cost) -> float:
    """Return the seconds of a trial from submission to end, without training."""
    return one.overhead + one.queue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24, help="a multiple of three")
    parser.add_argument("--seconds", type=float, default=2.0, help="that each trains")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if reason := obstacle():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(prefix="hptransfer-overhead-") as folder:
        place = Path(folder)
        hydra = install_hydra(place / "hydra")
        with cluster(settings=settings(place)) as slurm:
            bench = Bench(place, slurm, hydra, arguments.trials, arguments.seconds)
            methods: dict[str, list[Cost]] = {"hptransfer": [], "submitit": [], "hydra": []}
            for _ in range(arguments.repeats):
                for name, costs in methods.items():
                    costs.append(bench.run(name))
                    print(f"  {name}: {costs[-1]}", flush=True)
    load = os.getloadavg()[0]
    print(
        f"{arguments.trials} trials of {arguments.seconds:g} s, eight at a time, {arguments.repeats} repeats (medians)"
    )
    print(f"{os.cpu_count()} cores with a load of {load:.1f}, Python {sys.version.split()[0]}")
    show(methods)


if __name__ == "__main__":
    main()
