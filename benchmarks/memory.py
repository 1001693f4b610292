"""Peak memory of a pack of trials, and of its trials alone.

    PYTHONPATH=. python benchmarks/memory.py [--device cuda]

A row is a few steps of a transformer at the quickstart's depth and batch under AdamW. On a CPU each row is a separate
process, and the number is its peak resident memory minus that of a process with the smallest model. On a GPU it is the
peak memory of tensors. "ratio" is the pack's memory over that of one trial times the number of trials: below 1 a pack
needs less than its trials alone. Kinds: float32, bf16, and float32 with activation checkpointing.
"""

import argparse
import resource
import subprocess
import sys
from typing import Any

import torch

from hptransfer.training.config import Base, RunConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers.adamw import AdamWConfig
from hptransfer.training.stack import Stack

STEPS = 3
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "checkpointing": {"activation_checkpointing": True},
}


def train(arguments: argparse.Namespace, width: int, trials: int, kind: str) -> None:
    """Train a few steps of a stack."""
    run = RunConfig(
        base=Base(width=64),
        batch=arguments.batch,
        sequence=arguments.sequence,
        model=TransformerConfig(width=width, depth=arguments.depth),
        optimizer=AdamWConfig(),
        data=StdlibConfig(),
        **KINDS[kind],
    )
    stack = Stack([run] * trials, range(trials), device=arguments.device)
    inputs, targets = (torch.randint(256, (run.batch, run.sequence), device=arguments.device) for _ in range(2))
    for step in range(STEPS):
        stack.step(inputs, targets, step).tolist()


def peak(arguments: argparse.Namespace, width: int, trials: int, kind: str) -> float:
    """Return the peak bytes of a stack, or of its CPU process."""
    if arguments.device == "cpu":
        return resident(width, trials, kind, depth=arguments.depth, batch=arguments.batch, sequence=arguments.sequence)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(arguments, width, trials, kind)
    return float(torch.cuda.max_memory_allocated())


def resident(width: int, trials: int, kind: str, **sizes: int) -> float:
    """Return the peak resident bytes of a process that trains a stack."""
    own = [f"--{key}={value}" for key, value in sizes.items()]
    words = [sys.executable, __file__, "--device=cpu", *own, f"--child={width},{trials},{kind}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout)


def child(arguments: argparse.Namespace) -> None:
    """Train one stack in this process, and print its peak memory."""
    torch.set_num_threads(1)
    width, trials, kind = arguments.child.split(",")
    train(arguments, int(width), int(trials), kind)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(size * (1 if sys.platform == "darwin" else 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=64)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    print(f"{arguments.device}, torch {torch.__version__}, depth {arguments.depth}, batch {arguments.batch}")
    smallest = resident(16, 1, "float32", depth=1, batch=1, sequence=1) if arguments.device == "cpu" else 0.0
    print(f"a process with the smallest model, which is taken off: {smallest / 2**20:.0f} MiB\n")
    print(f"{'width':>5} {'kind':>13} {'trials':>6} {'MiB':>8} {'ratio':>6}")
    for width in arguments.widths:
        for kind in arguments.kinds:
            one = peak(arguments, width, 1, kind) - smallest
            for trials in arguments.packs:
                size = peak(arguments, width, trials, kind) - smallest if trials > 1 else one
                place = f"{width:>5} {kind:>13} {trials:>6}"
                print(f"{place} {size / 2**20:>8.1f} {size / trials / one:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
