"""Gain of the stack that a worker chooses, and its cost.

    python benchmarks/stacks.py [--workers 2] [--trials 4]

Workers of one thread choose at the same time, as in a sweep. Each chooses for a job of the quickstart's deepest and
longest trials, with an empty cache. Each then takes steps of every size in turn, so that ratios are of the same
moments. The result is the mean over workers of the median step. "of job" is the share of the training of all its trials
in the chosen stacks, without held-out losses. Sweeps make jobs of one trial at width 256; here every width has a job of
several.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

WIDTHS = (32, 64, 128, 256)
ROUNDS = 25
PATIENCE_S = 900


@dataclass(frozen=True)
class Found:
    """Result of one worker at one width.

    It has the chosen stack, the cost of the choice, and the seconds per step and trial by size.
    """

    chosen: int
    calibration_s: float
    shares: Mapping[int, float]
    steps: int


def work(number: int, trials: int, together: Barrier, answers: Any) -> None:
    """Choose and measure as one worker."""
    import torch

    from hptransfer.config.compose import compose
    from hptransfer.planning.plan import make_plan
    from hptransfer.training.config import run_from_json
    from hptransfer.training.loop import measure_step
    from hptransfer.worker.runners.builtin import BuiltinRunner
    from hptransfer.worker.stack_sizes import stack_sizes

    torch.set_num_threads(1)
    plan = make_plan(compose("quickstart", [f"grid.width.values=[{','.join(map(str, WIDTHS))}]"]))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for width in WIDTHS:
            (scale,) = (one for one in plan.scales if one.axes == {"width": width, "depth": 4, "tokens": 65536})
            job = [plan.trial(scale, {"lr": value}, 0) for value in plan.grids["lr"][:1] * trials]
            run = run_from_json(job[0].run)
            measure_step(run, trials=1)  # the data and the libraries are loaded
            together.wait()
            started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its measurements
                chosen = BuiltinRunner().stack_size(job, lambda: None)
            took = time.perf_counter() - started
            together.wait()
            answers.put((width, number, Found(chosen, took, alternating(run, stack_sizes(trials)), run.steps)))
            together.wait()


def alternating(run: Any, tried: list[int]) -> dict[int, float]:
    """Return the seconds per step and trial by stack size."""
    from hptransfer.training.stack import Stack

    data, stacks = run.data.load(), {size: Stack([run] * size, [0] * size, device="cpu") for size in tried}
    seconds: dict[int, list[float]] = {size: [] for size in tried}
    for step in range(ROUNDS):
        inputs, targets = data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)
        for size, stack in stacks.items():
            started = time.perf_counter()
            stack.step(inputs, targets, 0).tolist()
            seconds[size].append((time.perf_counter() - started) / size)
    return {size: statistics.median(own[1:]) for size, own in seconds.items()}


def row(width: int, found: list[Found], trials: int) -> str:
    """Return the row of one width, by all workers."""
    gains = [statistics.fmean(one.shares[1] / one.shares[size] for one in found) for size in found[0].shares]
    chosen = statistics.fmean(one.shares[1] / one.shares[one.chosen] for one in found)
    share = statistics.fmean(one.calibration_s / (trials * one.steps * one.shares[one.chosen]) for one in found)
    took = statistics.fmean(one.calibration_s for one in found)
    sizes = " ".join(str(one.chosen) for one in found)
    return (
        f"{width:>5} {' '.join(f'{gain:>6.2f}' for gain in gains)} {sizes:>8} {chosen:>6.2f} {took:>8.2f} {share:>6.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=int, default=4, help="of a job: 2, 4, 8 or 16")
    arguments = parser.parse_args()
    if arguments.trials not in (2, 4, 8, 16):
        parser.error(f"--trials must be 2, 4, 8 or 16, got {arguments.trials}")
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    together, answers = context.Barrier(arguments.workers), context.Queue()
    workers = [
        context.Process(target=work, args=(number, arguments.trials, together, answers), daemon=True)
        for number in range(arguments.workers)
    ]
    for worker in workers:
        worker.start()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"{arguments.workers} worker(s) of one thread, jobs of {arguments.trials} trials\n")
    tried = [2**power for power in range(arguments.trials.bit_length())]
    columns = " ".join(f"{size:>6}" for size in tried)
    print(f"{'':>5} {'gain of a stack of':>{len(columns)}} {'':>8} {'its':>6} {'calibration':>15}")
    print(f"{'width':>5} {columns} {'chosen':>8} {'gain':>6} {'seconds':>8} {'of job':>6}")
    for width in WIDTHS:
        found = sorted(answers.get(timeout=PATIENCE_S) for _ in workers)
        print(row(width, [one for _, _, one in found], arguments.trials), flush=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
