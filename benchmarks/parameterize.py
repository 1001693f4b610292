"""Time and memory of resolving a billion-parameter model's rules.

The model is on the meta device.

    python benchmarks/parameterize.py

It is the plain transformer of examples/ with 16 blocks of width 2048, under muP with its base at width 256. A trainer
does this before it shards the model and draws its weights. Building the model is timed apart: the first `normal_` on
the meta device makes torch import its compiler. Memory is the process's peak, before (torch imported) and after.
"""

import functools
import resource
import sys
import time
from pathlib import Path

import torch

import hptransfer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from plain_transformer import PlainTransformer

make = functools.partial(PlainTransformer, depth=16, vocabulary=50_304, positions=2048)


def peak_mb() -> float:
    """Return the peak memory of this process, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would give the memory of the parent process
        held = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(held.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    _ = hptransfer.parameterize  # its imports are not part of the measurement
    before = peak_mb()
    started = time.perf_counter()
    with torch.device("meta"):
        model = make(2048)
    built = time.perf_counter()
    found = hptransfer.parameterize(model, make=make, base=256, optimizer="adamw", lr=2**-8)
    groups = list(found)
    record = found.to_json()
    resolved = time.perf_counter()
    parameters = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert len(record["parameters"]) == sum(len(group["params"]) for group in groups)
    print(f"parameters {parameters / 1e9:.3f} billion in {len(groups)} groups")
    print(f"seconds {resolved - built:.2f} (the model itself {built - started:.2f})")
    print(f"peak_mb {peak_mb():.0f} (before {before:.0f})")


if __name__ == "__main__":
    main()
