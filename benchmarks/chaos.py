"""Random faults during a sweep on a cluster of four nodes.

    python -m benchmarks.chaos [--trials 300] [--minutes 90] [--in-flight 8] [--seed 0]

starts a real SLURM (tests/slurm/cluster.py) and an MLflow server with PostgreSQL. Until everything is trained it
injects faults into jobs in training, the driver, slurmctld, accounting and the MLflow server. Then it prints a table of
lost, doubled and damaged results. It needs root and Debian's packages of SLURM and PostgreSQL. It ends by itself at the
time limit, and leaves no process running.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.slurm.chaos import (
    ACCOUNTING,
    CANCEL,
    CONTROLLER,
    DRIVER,
    MLFLOW,
    PREEMPT,
    RATES,
    REQUEUE,
    WIDTHS,
    Chaos,
    Setting,
    compare,
    tally,
)
from tests.slurm.cluster import cluster, obstacle
from tests.support.servers import mlflow_server

DECK = {CANCEL: 5, REQUEUE: 7, PREEMPT: 5, DRIVER: 3, CONTROLLER: 1, ACCOUNTING: 1, MLFLOW: 1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step = len(WIDTHS) * len(RATES)
    parser.add_argument("--trials", type=int, default=300, help=f"a multiple of {step}")
    parser.add_argument("--minutes", type=float, default=90.0, help="when to give up")
    parser.add_argument("--in-flight", type=int, default=8, help="jobs that run at a time")
    parser.add_argument("--tokens", type=int, default=393216, help="of each trial: 1024 a step")
    parser.add_argument("--pause", type=float, nargs=2, default=(2.0, 8.0), help="seconds between two faults, bounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="works there and leaves it; else in a temporary folder")
    arguments = parser.parse_args()
    if arguments.trials % step:
        parser.error(f"--trials must be a multiple of {step}, got {arguments.trials}")
    if reason := obstacle():
        print(reason, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends every process that was started
    setting = Setting(
        trials=arguments.trials,
        tokens=arguments.tokens,
        in_flight=arguments.in_flight,
        deck=DECK,
        rounds=None,
        pause_s=tuple(arguments.pause),
        away_s=(3.0, 15.0),
        limit_s=60 * arguments.minutes,
        seed=arguments.seed,
    )
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        return strike(setting, arguments.keep.absolute())
    with tempfile.TemporaryDirectory(prefix="hptransfer-chaos-") as place:
        return strike(setting, Path(place))


def strike(setting: Setting, place: Path) -> int:
    with cluster() as slurm, mlflow_server(place / "server") as server:
        os.environ |= {key: slurm.environment[key] for key in ("SLURM_CONF", "PATH")}
        chaos = Chaos(setting, slurm, server, place)
        chaos.run()
        found = tally(chaos, setting, server.uri)
        print(found.markdown(), flush=True)
    compare(found, chaos, setting, place)
    print(f"\n{found.compared} trials once more, undisturbed and inline: {len(found.different)} differ in a bit")
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
