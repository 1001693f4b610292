"""Measure seconds of `hptransfer coord-check` by model and optimizer.

On one thread, after import, with default settings.

    python benchmarks/coord_check.py [--model NAME ...] [--optimizer NAME ...]

The data is loaded, and torch has trained once, before anything is timed.
"""

import argparse
import time

import torch

from hptransfer.coordcheck.check_config import compose_check
from hptransfer.coordcheck.run import run_check
from hptransfer.core.errors import ConfigError
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for family, registry in {"model": MODELS, "optimizer": OPTIMIZERS}.items():
        parser.add_argument(f"--{family}", nargs="+", choices=registry.names(), default=registry.names())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':<12} {'optimizer':<11} {'seconds':>7} {'of CPU':>7}")
    for model in arguments.model:
        for optimizer in arguments.optimizer:
            choices = [f"run/model={model}", f"run/optimizer={optimizer}"]
            try:
                run_check(compose_check([*choices, "widths=[16,32,64]", "seeds=1", "steps=1"]))
            except ConfigError as error:
                print(f"{model:<12} {optimizer:<11} refused: {error}", flush=True)
                continue
            started, cpu = time.perf_counter(), time.process_time()
            run_check(compose_check(choices))
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            print(f"{model:<12} {optimizer:<11} {seconds:>7.2f} {cpu:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
