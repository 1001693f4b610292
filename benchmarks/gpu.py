"""Throughput of packs of trials on a GPU by width and type.

    PYTHONPATH=. python benchmarks/gpu.py [--minutes 10]

It needs only PyTorch and numpy. The last line says whether packs train trials at least eight times as fast as one at a
time at every width up to 256. A row is a transformer at the quickstart's depth and batch under AdamW. Its updates are
ordinary ("eager"), recorded as a CUDA graph and replayed ("recorded"), or compiled and recorded ("compiled").

"gain" is the throughput in trial-steps per second over that of one trial at a time in the same type and mode. "of
eager" is the throughput over that of one eager trial at a time in the same type. "share" is the FLOPs per second over
those of the largest matrix product in that type, measured in the same run. "start" is the seconds of the first three
steps. Packs grow until one gains less than a twentieth on the one before. Only one trial at a time and the fastest
recorded pack are compiled, as a compiler takes many seconds for every shape.
"""

import argparse
import dataclasses
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hptransfer.core.errors import ConfigError
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers.adamw import AdamWConfig
from hptransfer.training.stack import Stack

GOAL, GOAL_WIDTH = 8.0, 256
MEASURED_S = 0.3
MODES = ("eager", "recorded", "compiled")
LEAST_GAIN = 0.05
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Row:
    """Measured pack: seconds of one step and of the first three."""

    width: int
    precision: str
    mode: str
    trials: int
    seconds: float
    start_s: float

    @property
    def throughput(self) -> float:
        """Trial-steps per second."""
        return self.trials / self.seconds


def matmul_rate(device: str, kind: str, size: int) -> float:
    """Return the FLOPs per second of a square matrix product.

    It is in float32, in float32 through TF32, or in bf16.
    """
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        product = left @ right
        for _ in range(9):
            product = left @ right
        float(product[0, 0])  # waits for the device
        seconds.append((time.perf_counter() - started) / 10)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * size**3 / min(seconds[1:])


def run_of(arguments: argparse.Namespace, width: int, precision: str, mode: str) -> RunConfig:
    return RunConfig(
        base=Base(width=64),
        batch=arguments.batch,
        sequence=arguments.sequence,
        precision=precision,
        compile=mode == "compiled",
        cuda_graph=mode != "eager",
        model=TransformerConfig(width=width, depth=arguments.depth),
        optimizer=AdamWConfig(),
        data=StdlibConfig(),
    )


def measure(run: RunConfig, trials: int, device: str) -> tuple[float, float]:
    """Return the seconds of a stack's step, and of its first three.

    Batches are copied to the device in each step.
    """
    runs = [dataclasses.replace(run, optimizer=AdamWConfig(lr=2.0**-8 / (1 + index))) for index in range(trials)]
    stack = Stack(runs, range(trials), device=device)
    batch = [torch.randint(256, (run.batch, run.sequence)) for _ in range(2)]

    def steps(count: int) -> float:
        started = time.perf_counter()
        losses_K = torch.empty(0)
        for _ in range(count):
            losses_K = stack.step(*(part.to(device) for part in batch), 0)
        losses_K.tolist()  # waits for the device
        return (time.perf_counter() - started) / count

    start_s = 3 * steps(3)
    seconds = steps(2)
    count = max(1, round(MEASURED_S / seconds / 3))
    return min(steps(count) for _ in range(3)), start_s


def rows(arguments: argparse.Namespace, until: float) -> Iterator[Row]:
    """Yield measured rows, narrow ones first, until the time is over.

    Rows that are left out are printed.
    """
    for width in arguments.widths:
        for precision in PRECISIONS:
            best = 1
            for mode in arguments.modes:
                packs = sorted({1, best}) if mode == "compiled" else arguments.packs
                found: list[Row] = []
                for trials in packs:
                    row = attempt(arguments, until, width, precision, mode, trials)
                    if row is None:
                        break
                    found.append(row)
                    yield row
                    if len(found) > 1 and row.throughput < (1 + LEAST_GAIN) * found[-2].throughput:
                        break
                best = max(found, key=lambda row: row.throughput).trials if found else best


def attempt(
    arguments: argparse.Namespace, until: float, width: int, precision: str, mode: str, trials: int
) -> Row | None:
    """Return a row, or None after a line with the reason."""
    place = f"{width:>5} {precision:>8} {mode:>8} {trials:>6}"
    if time.monotonic() > until:
        print(f"{place} not measured: {arguments.minutes:g} minutes are over")
        return None
    try:
        seconds, start_s = measure(run_of(arguments, width, precision, mode), trials, arguments.device)
    except (torch.OutOfMemoryError, ConfigError) as error:
        print(f"{place} not measured: {str(error).splitlines()[0]}")
        return None
    return Row(width, precision, mode, trials, seconds, start_s)


def verdict(gains: dict[int, float], widths: list[int]) -> str:
    """The last line.

    Args:
        gains: the largest at each width that was measured.
    """
    asked = [width for width in widths if width <= GOAL_WIDTH]
    said = f"goal: packs at least {GOAL:g}x as fast as one trial at a time, at widths up to {GOAL_WIDTH}:"
    if missing := [width for width in asked if width not in gains]:
        return f"{said} not known, as {', '.join(map(str, missing))} were not measured"
    if not asked:
        return f"{said} not known, as that width was not asked for"
    met = all(gains[width] >= GOAL for width in asked)
    largest = ", ".join(f"{gains[width]:.1f}x at {width}" for width in asked)
    return f"{said} {'met' if met else 'not met'} ({largest})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: both, but eager alone on a CPU")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which nothing further is begun")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    on_gpu = arguments.device.startswith("cuda")
    arguments.modes = arguments.modes or list(MODES if on_gpu else MODES[:1])
    arguments.packs = sorted({1, *arguments.packs})
    name = torch.cuda.get_device_name(arguments.device) if on_gpu else platform.processor() or platform.machine()
    print(
        f"{name}, torch {torch.__version__}, depth {arguments.depth}, {arguments.batch} x {arguments.sequence} tokens"
    )
    kinds = ("float32", "tf32", "bf16") if on_gpu else PRECISIONS
    rates = {kind: matmul_rate(arguments.device, kind, 8192 if on_gpu else 512) for kind in kinds}
    print("matrix products, TFLOP/s:", ", ".join(f"{kind} {rate / 1e12:.3f}" for kind, rate in rates.items()))
    names = f"{'width':>5} {'type':>8} {'mode':>8} {'trials':>6} {'ms/step':>9} {'share':>6} {'gain':>6}"
    print(f"\n{names} {'of eager':>8} {'start':>6}")
    alone: dict[tuple[int, str, str], float] = {}
    gains: dict[int, float] = {}
    for row in rows(arguments, until):
        run = run_of(arguments, row.width, row.precision, row.mode)
        flops = run.batch * run.model.flops(run.shape)
        share = flops * row.throughput / rates[row.precision]
        gain = row.throughput / alone.setdefault((row.width, row.precision, row.mode), row.throughput)
        of_eager = row.throughput / alone.get((row.width, row.precision, "eager"), math.nan)
        gains[row.width] = max(gains.get(row.width, 0.0), gain)
        place = f"{row.width:>5} {row.precision:>8} {row.mode:>8} {row.trials:>6} {row.seconds * 1e3:>9.2f}"
        print(f"{place} {share:>6.1%} {gain:>6.2f} {of_eager:>8.2f} {row.start_s:>6.1f}", flush=True)
    print(f"\n{verdict(gains, arguments.widths)}")


if __name__ == "__main__":
    main()
