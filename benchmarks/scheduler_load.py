"""Calls of the scheduler's commands with a thousand jobs in flight.

    python -m benchmarks.scheduler_load [--jobs 1000] [--trial SECONDS] [--window SECONDS]

It is a real sweep of a script that sleeps, on the cluster of the tests, with the launcher's default settings. Eight
jobs run at a time, all others wait. There are more trials than jobs in flight, so that each ended job is followed by
another. Calls are counted by the launcher (jobs/states.json) and by programs put first in PATH; the two must agree.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.slurm_calls import counted, per_minute, read_calls
from tests.slurm.cluster import Cluster, cluster, obstacle

ROOT = Path(__file__).parents[1]
END_S = 60.0
RESERVE = 400
SCRIPT = """\
import sys
import time

import hptransfer

time.sleep(float(sys.argv[1]))
hptransfer.report(step=1, loss=1.0)
"""
SWEEP = """\
defaults: [sweep, run: script, sampler: grid, launcher: slurm, tracker: none, _self_]
name: load
run:
  command: ["{{python}}", sleep.py, "{seconds}", "{{width}}", "{{lr}}"]
  params: width
  tokens: 100
grid:
  width: {{values: [{widths}]}}
space:
  lr: {{low: 0.001, high: 1.0, count: 20, extend: 0}}
target: {{width: 4096}}
launcher: {{max_jobs: {jobs}, time: 30}}
"""


def states(run: Path) -> dict[str, Any]:
    path = run / "jobs" / "states.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"jobs": {}, "calls": {}}
    return found


def open_jobs(run: Path) -> int:
    """Return the number of submitted jobs whose trial has no outcome."""
    ended = sum(1 for _ in run.glob("trials/*/outcome.json"))
    submitted = sum('"scheduler": "' in path.read_text() for path in run.glob("jobs/[0-9a-f]*.json") if _is_job(path))
    return submitted - ended


def _is_job(path: Path) -> bool:
    return path.name != "states.json" and "." not in path.stem


def measure(slurm: Cluster, place: Path, jobs: int, trial_s: float, window_s: float) -> None:
    widths = ", ".join(str(width) for width in range(1, (jobs + RESERVE) // 20 + 1))
    (place / "sleep.py").write_text(SCRIPT)
    (place / "load.yaml").write_text(SWEEP.format(seconds=trial_s, widths=widths, jobs=jobs))
    environment = counted(place, {**slurm.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    run = place / "runs" / "load"
    with (place / "printed").open("w") as printed:
        driver = subprocess.Popen(
            [sys.executable, "-m", "hptransfer.cli.main", "sweep", "load.yaml"],
            cwd=place,
            env=environment,
            stdout=printed,
            stderr=printed,
        )
    try:
        slurm.wait_for(lambda: open_jobs(run) >= jobs or driver.poll() is not None, f"{jobs} jobs in flight")
        start = time.time()
        in_flight = []
        while time.time() < start + window_s and driver.poll() is None:
            in_flight.append(open_jobs(run))
            time.sleep(5)
        end = time.time()
        ended = sum(1 for _ in run.glob("trials/*/outcome.json"))
    finally:
        driver.send_signal(signal.SIGTERM)
        driver.wait(END_S)
    if not in_flight or end - start < window_s:
        raise SystemExit(f"the sweep ended early:\n{(place / 'printed').read_text()[-2000:]}")
    report(place, run, start, end, in_flight, ended)


def report(place: Path, run: Path, start: float, end: float, in_flight: list[int], ended: int) -> None:
    calls = read_calls(place)
    rates = per_minute(calls, start, end)
    print(f"{min(in_flight)} to {max(in_flight)} jobs in flight for {end - start:.0f} s, {ended} trials ended")
    print(f"{'calls':<12} {'a minute':>9} {'all, noted':>11} {'all, by the launcher':>21}")
    noted, own = Counter(call.command for call in calls), Counter(states(run)["calls"])
    for command in sorted({*noted, *own}):
        print(f"{command:<12} {rates.get(command, 0.0):>9.2f} {noted[command]:>11} {own[command]:>21}")
    print(f"{'together':<12} {sum(rates.values()):>9.2f} {noted.total():>11} {own.total():>21}")
    if noted != own:
        raise SystemExit("the two counts differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="in flight")
    parser.add_argument("--trial", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--window", type=float, default=150.0, metavar="SECONDS")
    arguments = parser.parse_args()
    if reason := obstacle():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(prefix="hptransfer-load-") as place, cluster() as slurm:
        measure(slurm, Path(place), arguments.jobs, arguments.trial, arguments.window)


if __name__ == "__main__":
    main()
