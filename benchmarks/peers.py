"""Time of the quickstart's trials by hptransfer and by the usual tools.

    python -m benchmarks.peers [--peers loop pool optuna ray hydra hydra-optuna] [--repeats 3] [--smoke]

All train the same trials on all cores of this machine: batches and initial weights are the same, and losses are
compared. The peers train by benchmarks/peer_programs/train.py, which is PyTorch alone. Hydra with its plugins and Ray
are installed into separate environments that share this one's PyTorch. Two tables are printed:

 - The whole quickstart, each method once, from the start of its command to its end. "training" is the CPU time of the
   training threads divided by the number that train at a time. "rest" is the remaining time: starts of processes,
   imports, waiting and records. For hptransfer it includes the fit and the report.
 - By width, methods in turns: the time from the first trial's start to the last one's end, without the starts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.throughput import matmul_rate
from hptransfer.config.compose import compose
from hptransfer.core.errors import EXIT_DONE, EXIT_NO_LAW
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import num_cores
from hptransfer.planning.plan import Plan, make_plan
from hptransfer.training.config import RunConfig, run_from_json

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "benchmarks" / "peer_programs"
AGREE = 1e-4
"""Largest relative difference of the losses of one trial."""
LIMIT_S = 1800
INSTALL_S = 600
PACKAGES = {
    # Hydra's Optuna sweeper requires an Optuna that needs an older SQLAlchemy.
    "hydra": ("hydra-core<1.4", "hydra-submitit-launcher", "hydra-optuna-sweeper", "sqlalchemy<2"),
    "ray": ("ray[tune]",),
}
HPTRANSFER, LOOP, POOL = "hptransfer", "loop", "pool"
TITLES = {
    HPTRANSFER: "hptransfer sweep quickstart",
    LOOP: "plain loop, one process, all cores",
    POOL: "plain loop, a process a core",
    "optuna": "Optuna, n_jobs threads",
    "ray": "Ray Tune",
    "hydra": "Hydra, submitit launcher",
    "hydra-optuna": "Hydra, submitit, Optuna sweeper",
}
GOALS = {"hydra": 10.0, "hydra-optuna": 10.0}
"""Goal: how many times faster the whole quickstart should be."""
GOALS_BY_WIDTH = {
    LOOP: {32: 2.8, 64: 1.9, 128: 1.4, 256: 1.15},
    POOL: {32: 1.5, 64: 1.15, 128: 1.0, 256: 0.98},
}

Trial = tuple[int, int, int, float]
"""Width, depth, tokens, learning rate."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Trials of the quickstart: all combinations of its axes' values.

    Attributes:
        rates: learning rates at each scale, over the quickstart's whole range.
        windows: held-out windows.
        tracker: hptransfer's tracker.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (2, 4)
    tokens: tuple[int, ...] = (32_768, 65_536)
    rates: int = 7
    windows: int = 256
    tracker: str = "mlflow"

    def overrides(self) -> list[str]:
        """Return overrides of the quickstart.

        A rate at the edge causes no further trials, and an axis of one value has no law.
        """
        found = [f"space.lr.count={self.rates}", "space.lr.extend=0", f"run.validation_windows={self.windows}"]
        for axis, values in (("width", self.widths), ("depth", self.depths), ("tokens", self.tokens)):
            found.append(f"grid.{axis}.values=[{','.join(map(str, values))}]")
            if len(values) == 1:
                found.append(f"target.{axis}={values[0]}")
        return [*found, f"tracker={self.tracker}"]

    def plan(self) -> Plan:
        return make_plan(compose("quickstart", self.overrides()))

    def __str__(self) -> str:
        axes = (f"width {self.widths}", f"depth {self.depths}", f"tokens {self.tokens}")
        return " x ".join(axis.replace("(", "").replace(",)", "").replace(")", "") for axis in axes)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a method for a grid, in seconds.

    Attributes:
        wall: from its command's start to its end.
        training: CPU time of the training threads, of all trials together.
        span: from the first trial's start to the last one's end.
        losses: None for a trial that diverged.
    """

    wall: float
    training: float
    span: float
    losses: Mapping[Trial, float | None]


def difference(losses: Mapping[Trial, float | None], others: Mapping[Trial, float | None]) -> float:
    """Return the largest relative difference of two methods' losses.

    It is infinite where only one has diverged, or has the trial.
    """
    if losses.keys() != others.keys():
        return math.inf
    found = [0.0]
    for trial, loss in losses.items():
        other = others[trial]
        if loss is not None and other is not None:
            found.append(abs(loss / other - 1))
        elif loss is not other:
            found.append(math.inf)
    return max(found)


class Bench:
    """Methods on this machine.

    Args:
        place: folder of the runs.
        pythons: interpreter of each environment.
        batch: number of jobs that Hydra launches at a time.
    """

    def __init__(self, place: Path, pythons: Mapping[str, Path], batch: int) -> None:
        self._place, self._pythons, self._batch = place, pythons, batch
        self._runs = 0
        self._data: dict[Grid, Path] = {}

    def run(self, method: str, grid: Grid) -> Cost:
        """Run one sweep in a separate folder."""
        self._runs += 1
        folder = self._place / f"{self._runs}-{method}"
        (folder / "results").mkdir(parents=True)
        plan = grid.plan()
        trials = trials_of(plan)
        (folder / "trials.json").write_text(json.dumps(trials))
        (folder / "batches.pt").symlink_to(self._batches(grid, plan))
        command = self._command(method, grid, plan.grids["lr"], folder)
        started = time.monotonic()
        with (folder / "printed").open("w") as printed:
            done = subprocess.run(
                command, cwd=folder, env=environment(method), stdout=printed, stderr=printed, timeout=LIMIT_S
            )
        wall = time.monotonic() - started
        allowed = (EXIT_DONE, EXIT_NO_LAW) if method == HPTRANSFER else (0,)  # few scales may have no law
        if done.returncode not in allowed:
            end = (folder / "printed").read_text()[-3000:]
            raise SystemExit(f"{method}: exit code {done.returncode} of {' '.join(command)}\n{end}")
        cost = our_cost(folder / "runs" / "quickstart", wall) if method == HPTRANSFER else their_cost(folder, wall)
        if missing := set(trials).symmetric_difference(cost.losses):
            raise SystemExit(
                f"{method}: {len(cost.losses)} results for {len(trials)} trials; {min(missing)} is at odds"
            )
        return cost

    def _batches(self, grid: Grid, plan: Plan) -> Path:
        if grid not in self._data:
            self._data[grid] = self._place / f"batches-{len(self._data)}.pt"
            largest = max(plan.scales, key=lambda scale: scale.axes["tokens"])
            torch.save(batches(run_from_json(plan.run(largest))), self._data[grid])
        return self._data[grid]

    def _command(self, method: str, grid: Grid, rates: Sequence[float], folder: Path) -> list[str]:
        python = str(self._pythons.get(method.partition("-")[0], sys.executable))
        program = {"optuna": "optuna_threads.py", "ray": "ray_tune.py"}.get(method, f"{method}.py")
        if method == HPTRANSFER:
            return [
                python,
                "-m",
                "hptransfer.cli.main",
                "sweep",
                "quickstart",
                *grid.overrides(),
                f"runs={folder / 'runs'}",
            ]
        if method == LOOP:
            return [python, str(PROGRAMS / program), str(folder)]
        if not method.startswith("hydra"):
            return [python, str(PROGRAMS / program), str(folder), str(num_cores())]
        axes = {"width": grid.widths, "depth": grid.depths, "tokens": grid.tokens, "lr": rates}
        words = {name: ",".join(map(str, values)) for name, values in axes.items()}
        command = [python, str(PROGRAMS / "hydra_app.py"), "--multirun", "hydra/launcher=submitit_local"]
        command += [f"hydra.sweep.dir={folder / 'hydra'}", f"+folder={folder}"]
        if method == "hydra":
            return command + [f"hydra.sweeper.max_batch_size={self._batch}"] + [f"+{n}={w}" for n, w in words.items()]
        number = math.prod(map(len, axes.values()))
        sweeper = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", f"hydra.sweeper.n_jobs={self._batch}"]
        sweeper += [f"hydra.sweeper.n_trials={number}", "hydra.sweeper.max_failure_rate=1"]  # some may diverge
        return command + sweeper + [f"+{name}=choice({word})" for name, word in words.items()]


def environment(method: str) -> dict[str, str]:
    """Return the environment of a method's command.

    Threads per process are set so that all cores are busy; hptransfer sets its own.
    """
    found = {**os.environ, "PYTHONPATH": str(ROOT if method == HPTRANSFER else PROGRAMS)}
    found |= {"PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0"}
    found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray then listens on the loopback address alone
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        found[name] = str(num_cores() if method == LOOP else 1)
        if method == HPTRANSFER:
            del found[name]
    return found


def trials_of(plan: Plan) -> list[Trial]:
    """Return all trials of a grid, scale by scale."""
    axes = [tuple(scale.axes[name] for name in ("width", "depth", "tokens")) for scale in plan.scales]
    return [(int(w), int(d), int(t), lr) for (w, d, t), lr in itertools.product(axes, plan.grids["lr"])]


def batches(run: RunConfig) -> dict[str, torch.Tensor]:
    """Return a run's batches and held-out windows for peer_programs/train.py.

    They are the same for all trials.
    """
    data = run.data.load()
    steps = [
        data.batch(seed=run.data_seed, step=step, batch=run.batch, sequence=run.sequence) for step in range(run.steps)
    ]
    inputs, targets = (torch.stack(parts) for parts in zip(*steps, strict=True))
    held_out = data.validation(windows=run.validation_windows, sequence=run.sequence)
    return {"inputs": inputs, "targets": targets, "held_out_inputs": held_out[0], "held_out_targets": held_out[1]}


def our_cost(path: Path, wall: float) -> Cost:
    """Return the cost of a run folder.

    A worker has its own core and records its training time by the clock. Each trial of a stack has an equal share of
    it, so that all shares together lie between the stack's start and end.
    """
    folder = RunFolder(path)
    losses: dict[Trial, float | None] = {}
    training, starts, ends = 0.0, [], []
    for trial in folder.each_trial():
        outcome = folder.read_outcome(trial.id)
        assert outcome is not None
        axes = trial.scale.axes
        losses[int(axes["width"]), int(axes["depth"]), int(axes["tokens"]), float(trial.tuned["lr"])] = outcome.loss
        training += outcome.seconds
        ends.append(folder.outcome_path(trial.id).stat().st_mtime)
        starts.append(ends[-1] - outcome.stack * outcome.seconds)
    return Cost(wall=wall, training=training, span=max(ends) - min(starts), losses=losses)


def their_cost(folder: Path, wall: float) -> Cost:
    """Return the cost from the results of peer_programs/train.py."""
    results = [json.loads(path.read_text()) for path in (folder / "results").iterdir()]
    losses = {tuple(one["trial"]): None if math.isnan(one["loss"]) else one["loss"] for one in results}
    return Cost(
        wall=wall,
        training=sum(one["cpu_s"] for one in results),
        span=max(one["ended"] for one in results) - min(one["started"] for one in results),
        losses=losses,
    )


def install(folder: Path, packages: Sequence[str]) -> Path:
    """Make an environment with packages unless it exists, and return its interpreter.

    It shares this environment's PyTorch.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"  installing {' '.join(packages)}", flush=True)
        words = [sys.executable, "-m", "venv", str(folder)]
        subprocess.run(words, check=True, timeout=INSTALL_S, capture_output=True, text=True)
        words = [str(python), "-m", "pip", "install", "-q", *packages]
        subprocess.run(words, check=True, timeout=INSTALL_S, capture_output=True, text=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


def install_all(folder: Path, methods: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreters of the methods' environments, and reasons of failures."""
    pythons, reasons = {}, {}
    for name in {method.partition("-")[0] for method in methods} & PACKAGES.keys():
        try:
            pythons[name] = install(folder / name, PACKAGES[name])
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reasons[name] = str(error.stderr or error).strip().splitlines()[-1]
    return pythons, reasons


def verdict(ratio: float, goal: float | None) -> str:
    return "" if goal is None else f"{goal:g}x {'met' if ratio >= goal else 'NOT MET'}"


def whole(bench: Bench, methods: Sequence[str], reasons: Mapping[str, str], grid: Grid) -> Iterator[float]:
    """Print the first table; yield the peers' differences of losses from ours."""
    plan = grid.plan()
    print(f"\n{len(trials_of(plan))} trials: {grid} x {grid.rates} learning rates, {plan.flops():.2g} FLOPs")
    print(f"{'':<36}{'wall s':>8}{'training':>9}{'rest':>8}{'of ours':>9}  {'goal':<14}{'losses differ by':>16}")
    ours = bench.run(HPTRANSFER, grid)
    print(row(HPTRANSFER, ours), flush=True)
    for method in methods:
        if reason := reasons.get(method.partition("-")[0]):
            print(f"{TITLES[method]:<36}not measured: {reason}", flush=True)
            continue
        cost = bench.run(method, grid)
        ratio, far = cost.wall / ours.wall, difference(cost.losses, ours.losses)
        print(f"{row(method, cost)}{ratio:>8.2f}x  {verdict(ratio, GOALS.get(method)):<14}{far:>16.1e}", flush=True)
        yield far


def row(method: str, cost: Cost) -> str:
    training = cost.training / (1 if method == LOOP else num_cores())
    return f"{TITLES[method]:<36}{cost.wall:>8.1f}{training:>9.1f}{cost.wall - training:>8.1f}"


def by_width(bench: Bench, widths: Sequence[int], steps_of: Callable[[int], int], repeats: int) -> Iterator[float]:
    """Print the second table; yield the peers' differences of losses from ours.

    Ratios are medians of those within a repeat. The share is of the rate of a large matrix product on all cores,
    measured in each repeat too. Only the training's FLOPs are counted, although the held-out loss takes time too.
    """
    print(f"\n8 trials a width, depth 4, {repeats} repeats (medians), seconds from the first start to the last end")
    print(f"{'width':>5} {'steps':>5}{'ours':>8}{'loop':>8}{'pool':>8}", end="")
    print(f"{'loop/ours':>11}  {'goal':<13}{'pool/ours':>11}  {'goal':<13}{'GFLOP/s':>8}{'share':>7}")
    for width in widths:
        steps = steps_of(width)
        grid = Grid(widths=(width,), depths=(4,), tokens=(256 * steps,), rates=8, windows=64, tracker="none")
        spans: dict[str, list[float]] = {HPTRANSFER: [], LOOP: [], POOL: []}
        peaks = []
        for _ in range(repeats):
            costs = {method: bench.run(method, grid) for method in spans}
            peaks.append(matmul_rate())
            for method, cost in costs.items():
                spans[method].append(cost.span)
                yield difference(cost.losses, costs[HPTRANSFER].losses)
        rate = grid.plan().flops() / statistics.median(spans[HPTRANSFER])
        print(
            f"{width:>5} {steps:>5}" + "".join(f"{statistics.median(found):>8.2f}" for found in spans.values()), end=""
        )
        for method in (LOOP, POOL):
            pairs = zip(spans[method], spans[HPTRANSFER], strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in pairs)
            print(f"{ratio:>10.2f}x  {verdict(ratio, GOALS_BY_WIDTH[method].get(width)):<13}", end="")
        print(f"{rate / 1e9:>8.1f}{rate / statistics.median(peaks):>7.0%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = [method for method in TITLES if method != HPTRANSFER]
    parser.add_argument("--peers", nargs="*", choices=peers, default=peers, help="in the first table")
    parser.add_argument("--tokens", nargs="+", type=int, default=Grid.tokens, help="budgets of the first table")
    parser.add_argument("--rates", type=int, default=Grid.rates, help="learning rates a scale in the first table")
    parser.add_argument("--batch", type=int, default=4 * num_cores(), help="jobs that Hydra launches at a time")
    parser.add_argument("--widths", nargs="*", type=int, default=[32, 64, 128, 256], help="of the second table")
    parser.add_argument("--repeats", type=int, default=3, help="of the second table")
    parser.add_argument("--environments", type=Path, help="makes them there and keeps them; else for this run alone")
    parser.add_argument("--smoke", action="store_true", help="two scales and few steps: whether all of it works")
    arguments = parser.parse_args()
    grid = Grid(tokens=tuple(arguments.tokens), rates=arguments.rates)
    if arguments.smoke:
        grid = Grid(widths=(32, 64), depths=(2,), tokens=(4096,), rates=4, windows=64)
        arguments.widths, arguments.repeats = arguments.widths[:2], 1
    torch.set_num_threads(num_cores())
    print(f"{platform.processor() or platform.machine()}, {num_cores()} cores with a load of {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="hptransfer-peers-") as temporary:
        place = Path(temporary)
        pythons, reasons = install_all((arguments.environments or place).resolve(), arguments.peers)
        bench = Bench(place, pythons, arguments.batch)
        far = list(whole(bench, arguments.peers, reasons, grid))
        steps = 16 if arguments.smoke else 128
        if arguments.widths:
            far += by_width(
                bench, arguments.widths, lambda width: steps if width < 256 else steps // 2, arguments.repeats
            )
    if max(far, default=0.0) > AGREE:
        raise SystemExit(f"losses differ by {max(far):.1e}, more than {AGREE:g}: the methods did not train the same")


if __name__ == "__main__":
    main()
