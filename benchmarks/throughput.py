"""Training throughput as a share of this machine's own matrix-multiply rate.

    python benchmarks/throughput.py [--threads 1]

Every row is measured in the same run, so the shares and ratios can be compared between machines although the rates
cannot. "gain" is a trial's throughput in its stack over that of a trial alone.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch

from hptransfer.config.compose import compose
from hptransfer.planning.plan import make_plan
from hptransfer.training.config import run_from_json
from hptransfer.training.loop import measure_step

REPEATS = 3


def best_seconds(action: Callable[[], object]) -> float:
    action()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def matmul_rate(size: int = 1024) -> float:
    """Return the FLOPs per second of a square float32 matrix product."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / best_seconds(lambda: left @ right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peak = max(matmul_rate() for _ in range(REPEATS))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {arguments.threads} thread(s)")
    print(f"matrix multiply, float32, 1024: {peak / 1e9:.1f} GFLOP/s = 100%\n")
    print(f"{'width':>5} {'depth':>5} {'stack':>5} {'ms/trial-step':>13} {'GFLOP/s':>8} {'share':>6} {'gain':>5}")
    plan = make_plan(compose("quickstart", ["grid.width.values=[32,64,128,256]", "grid.depth.values=[4]"]))
    for scale in plan.scales:
        if scale.axes["tokens"] == 65536:
            run = run_from_json(plan.run(scale))
            flops = plan.sizes[scale].flops / run.steps
            alone = None
            for trials in (1, 2, 4, 8):
                seconds = min(measure_step(run, trials=trials) for _ in range(REPEATS)) / trials
                alone = alone or seconds
                rate = flops / seconds
                row = f"{scale.axes['width']:>5} {scale.axes['depth']:>5} {trials:>5} {seconds * 1e3:>13.2f}"
                print(f"{row} {rate / 1e9:>8.1f} {rate / peak:>6.0%} {alone / seconds:>5.2f}", flush=True)


if __name__ == "__main__":
    main()
