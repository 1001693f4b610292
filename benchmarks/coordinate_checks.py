"""Measure coordinate checks of all combinations into docs/coordinate_checks.csv.

    python benchmarks/coordinate_checks.py [--missing] [--model NAME ...] [--optimizer NAME ...] ...

A row is what `hptransfer coord-check run/model=M run/optimizer=O run.parameterization=P` finds, with its own settings.
The tables made of it: `python -m docs.generators.parameterization_tables docs/coordinate_checks.csv`.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch

from docs.generators.measured_checks import MeasuredCheck, read_measured, write_measured
from hptransfer.coordcheck.check_config import compose_check
from hptransfer.coordcheck.run import run_check
from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS

FILE = Path(__file__).parents[1] / "docs" / "coordinate_checks.csv"


def measure(model: str, optimizer: str, parameterization: str) -> MeasuredCheck:
    """Return the steepest judged slope of a combination."""
    choices = [f"run/model={model}", f"run/optimizer={optimizer}", f"run.parameterization={parameterization}"]
    key = {"model": model, "optimizer": optimizer, "parameterization": parameterization}
    try:
        check = run_check(compose_check(choices))
    except ConfigError as error:  # one has no rule for the other
        return MeasuredCheck(**key, slope=None, where="", passed=False, expected=str(error))
    slope, row, column = check.steepest()
    return MeasuredCheck(
        **key, slope=round(slope, 2), where=f"{row}, {column}", passed=check.passed, expected=check.expected
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", action="store_true", help="only what the file does not have yet")
    families = {"model": MODELS, "optimizer": OPTIMIZERS, "parameterization": PARAMETERIZATIONS}
    for family, registry in families.items():
        parser.add_argument(f"--{family}", nargs="+", choices=registry.names(), default=registry.names())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {row.key: row for row in read_measured(FILE)} if FILE.exists() else {}
    for key in itertools.product(*(getattr(arguments, family) for family in families)):
        if arguments.missing and key in rows:
            continue
        started = time.perf_counter()
        row = measure(*key)
        seconds = time.perf_counter() - started
        print(f"{' '.join(key)}: {row.mark} {row.where}, {seconds:.1f} s", flush=True)
        rows[key] = row
        write_measured(FILE, rows.values())


if __name__ == "__main__":
    main()
