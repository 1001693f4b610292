"""Time and memory of an analysis, including the page.

    python benchmarks/analyze_speed.py [--large 100000]

The first row has the 951 published language-model runs, with two tuned axes and 1,000 draws. The others have simulated
runs over 100 scales. The last row has twice the runs of the one before: at a linear cost the ratio is at most 2. Each
analysis runs in a separate process, whose peak resident memory is printed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).parent / "data" / "lm_lr_batch_sweep.csv"
SCALES = 100


def simulated(runs: int) -> pd.DataFrame:
    """Return runs over a hundred scales: ten params by ten tokens."""
    random = np.random.default_rng(0)
    scale = np.arange(runs) % SCALES
    n, d = scale // 10 / 2, scale % 10 / 2
    rate = -9 - 0.5 * n + 0.2 * d + random.uniform(-2, 2, runs)
    batch = 7 + 0.5 * d + random.uniform(-2, 2, runs)
    off_rate, off_batch = rate + 9 + 0.5 * n - 0.2 * d, batch - 7 - 0.5 * d
    above = 0.011 * (off_rate - 0.4 * off_batch) ** 2 + 0.008 * off_batch**2
    loss = 1.7 + 0.8 * 2 ** (-0.2 * n) + 0.5 * 2 ** (-0.2 * d) + above + 0.003 * random.standard_normal(runs)
    size = {"params": 1e7 * 2**n, "tokens": 1e9 * 2**d}
    return pd.DataFrame({**size, "learning_rate": 2**rate, "batch_size": 2**batch, "loss": loss})


def one(table: Path) -> None:
    """Analyze a table in this process, and print its costs.

    They are seconds, megabytes, and whether torch was imported.
    """
    from hptransfer.analysis.pipeline import analyze_file

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        targets = Path(folder) / "targets.csv"
        targets.write_text("params,tokens\n1e9,1e11\n")
        analyze_file(
            table,
            scales=("params", "tokens"),
            tuned=("learning_rate", "batch_size"),
            loss="loss",
            targets=targets,
            out=Path(folder) / "out",
        )
    seconds, processor = time.perf_counter() - started, time.process_time()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.1f} | {processor:.1f} | {megabytes:.0f} | {'yes' if 'torch' in sys.modules else 'no'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
        return
    print("| runs | seconds | of processor | peak MB | imports torch |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for runs in (0, arguments.large // 2, arguments.large):
            table = Path(folder) / f"{runs}.csv" if runs else DATA
            if runs:
                simulated(runs).to_csv(table, index=False)
            printed = subprocess.run(
                [sys.executable, __file__, "--one", str(table)], capture_output=True, text=True, check=True
            )
            print(f"| {runs or len(pd.read_csv(DATA))} | {printed.stdout.strip()} |", flush=True)


if __name__ == "__main__":
    main()
