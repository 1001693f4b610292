"""A sweep on the cluster while its jobs, its driver and the daemons around it are struck at random, and what is left.

The schedule is drawn from a seed; what it meets at each moment is not. Watching is done from outside: files by their
inodes and times, logs, the queue, and what the MLflow server has in the end.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.io import read_json, read_jsonl
from hptransfer.core.records import CANCELLED, FAILED
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.jobs import read_jobs
from tests.slurm.cluster import Cluster, ClusterError
from tests.support.helpers import command, environment
from tests.support.servers import Server
from tests.support.waiting import files, wait_until

CANCEL, REQUEUE, PREEMPT = "job cancelled", "job requeued", "node taken by a job of higher priority"
DRIVER, CONTROLLER = "driver killed and started again", "slurmctld stopped and started"
ACCOUNTING, MLFLOW = "accounting stopped and started", "MLflow server killed and started"

WIDTHS = (128, 144)
"""With the batch below large enough that a job is a trial."""
RATES = ("0.008", "0.016", "0.032", "0.064", "0.128")
LOOK_S = 0.2
FRESH_S = 6.0
"""A curve that got a point within so many seconds is one in training."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much is trained and struck.

    Attributes:
        trials: a multiple of twice the number of learning rates.
        deck: how many faults of each kind are dealt before the cards are shuffled again.
        rounds: decks that are dealt; None for as long as there is something to strike.
        pause_s: bounds of the time between two faults.
        away_s: bounds of the time that a daemon is away.
        limit_s: when to give up, and nothing strikes in its last quarter; None for as long as trials train.
    """

    trials: int
    tokens: int
    in_flight: int
    deck: Mapping[str, int]
    rounds: int | None
    pause_s: tuple[float, float]
    away_s: tuple[float, float]
    limit_s: float | None
    seed: int = 0

    @property
    def training(self) -> Sequence[str]:
        """What decides the numbers of a trial, whoever trains it."""
        return (
            f"grid.width.values=[{','.join(map(str, WIDTHS))}]",
            "grid.depth.values=[1]",
            f"grid.tokens.values=[{self.tokens}]",
            f"space.lr.values=[{','.join(RATES)}]",
            "space.lr.extend=0",
            "target.width=192",
            "~target.depth",
            "~target.tokens",
            "run.batch=16",
            "run.validation_windows=16",
        )

    @property
    def seeds(self) -> int:
        return self.trials // (len(WIDTHS) * len(RATES))

    def words(self, runs: Path, uri: str) -> Sequence[str]:
        launcher = {
            "partition": "low",
            "time": 20,
            "max_running": self.in_flight,
            "checkpoint_s": 2,
            "stack": 1,
            "poll_min_s": 1,
            "poll_max_s": 3,
            "lost_after_s": 60,
        }
        options = [f"launcher.{key}={value}" for key, value in launcher.items()]
        tracker = ["tracker=mlflow", f"tracker.uri={uri}"]
        where = ["name=chaos", f"runs={runs}", f"seeds={self.seeds}", "launcher=slurm"]
        return ["sweep", "quickstart", *self.training, *where, *tracker, *options]


@dataclass(frozen=True)
class Trained:
    """A job that trains: what SLURM calls it, where it is, its trial."""

    number: str
    node: str
    trial: str


@dataclass
class Fault:
    """What struck, and how many trials in mid-training it struck."""

    kind: str
    hit: int


class Watcher(threading.Thread):
    """Sees every outcome and checkpoint that is written while it runs: a new file each, by inode and time."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(daemon=True)
        self._folder, self._end = folder, threading.Event()
        self.outcomes: dict[str, dict[tuple[int, int], str]] = defaultdict(dict)
        self.checkpoints: dict[str, set[tuple[int, int]]] = defaultdict(set)

    def run(self) -> None:
        while not self._end.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        for path in self._folder.path.glob("trials/*/outcome.json"):
            with contextlib.suppress(OSError):  # one that is taken back
                seen = self.outcomes[path.parent.name]
                if (key := _version(path)) not in seen:
                    state = read_json(path)["state"]
                    seen[key] = state if _version(path) == key else seen.get(key, state)
        for path in self._folder.jobs.glob("*.checkpoint"):
            with contextlib.suppress(OSError):
                self.checkpoints[path.name.partition(".")[0]].add(_version(path))

    def stop(self) -> None:
        self._end.set()
        self.join()
        self.look()


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


class Driver:
    """`hptransfer sweep`, as often as it is started."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._words, self._log = words, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hptransfer.cli.main", *self._words],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self, folder: RunFolder) -> int | None:
        """Its exit code; None if it neither ends nor writes to its folder."""
        assert self._process is not None
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.runs, "the end of the driver", progress=files(folder.path))
        return self._process.poll()


class Chaos:
    """One disturbed sweep."""

    def __init__(self, setting: Setting, cluster: Cluster, server: Server, place: Path) -> None:
        self._setting, self._cluster, self._server = setting, cluster, server
        self.folder = RunFolder(place / "chaos")
        self.faults: list[Fault] = []
        self.log = place / "driver.log"
        self.watcher = Watcher(self.folder)
        self._draw = random.Random(setting.seed)
        self._driver = Driver(setting.words(place, server.uri), self.log)
        self._outages: dict[str, threading.Thread] = {}
        self._errors: list[BaseException] = []
        self.seconds = 0.0
        self.last_code: int | None = None

    def run(self) -> None:
        """Until all is trained, or the time is over; then everything is there again and the command runs once more."""
        began = time.monotonic()
        self.watcher.start()
        try:
            self._driver.start()
            self._disturb(began)
            for outage in self._outages.values():
                outage.join()
            self._driver.wait(self.folder)
            self.seconds = time.monotonic() - began
            self._driver.kill()
            self._driver.start()
            self.last_code = self._driver.wait(self.folder)
        finally:
            self._driver.kill()
            for outage in self._outages.values():
                outage.join()
            self.watcher.stop()
        if self._errors:
            raise self._errors[0]

    def _disturb(self, began: float) -> None:
        faults = self._deal()
        following = next(faults, None)
        limit_s = self._setting.limit_s or math.inf
        due = time.monotonic() + self._draw.uniform(*self._setting.pause_s)

        def over() -> bool:
            nonlocal following, due
            passed_s = time.monotonic() - began
            if not self._unfinished() or passed_s >= limit_s or self._errors:
                return True
            self._nurse()
            if following and due <= time.monotonic() and passed_s < 0.75 * limit_s and self._strike(following):
                following = next(faults, None)
                due = time.monotonic() + self._draw.uniform(*self._setting.pause_s)
            return False

        wait_until(over, "the end of all trials", progress=files(self.folder.path / "trials"), pause_s=LOOK_S)

    def _deal(self) -> Iterator[str]:
        number = 0
        while self._setting.rounds is None or number < self._setting.rounds:
            cards = [kind for kind, count in self._setting.deck.items() for _ in range(count)]
            self._draw.shuffle(cards)
            yield from cards
            number += 1

    def _unfinished(self) -> bool:
        """Also when all but cancelled ones have ended: those are taken back."""
        states = [self._state(trial) for trial in list(self.watcher.outcomes)]
        return len([state for state in states if state not in (None, FAILED)]) < self._setting.trials

    def _state(self, trial: str) -> str | None:
        with contextlib.suppress(OSError):
            return str(read_json(self.folder.outcome_path(trial))["state"])
        return None

    # --- what a user does, and an administrator ---

    def _nurse(self) -> None:
        """Lets what was requeued start, takes back what was cancelled, starts a driver that ended."""
        if not self._away(CONTROLLER):
            with contextlib.suppress(ClusterError):
                held = self._cluster.run("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r")
                for number in (line.split()[0] for line in held.splitlines() if line.endswith("BeginTime")):
                    self._cluster.release(number)
        cancelled = [trial for trial in list(self.watcher.outcomes) if self._state(trial) == FAILED]
        if len(cancelled) >= 3 or (cancelled and not self._driver.runs):
            command("retry", str(self.folder.path), "--cause", CANCELLED)
        if not self._driver.runs:
            self._driver.start()

    def _away(self, kind: str) -> bool:
        return kind in self._outages and self._outages[kind].is_alive()

    # --- faults ---

    def _training(self) -> list[Trained]:
        """Jobs that run, whose trial has a curve that grows and no outcome."""
        text = self._cluster.run("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i %N")
        nodes = dict(line.split() for line in text.splitlines())
        if not nodes:  # nor need there be a folder yet
            return []
        jobs = [job for job in read_jobs(self.folder) if job.scheduler in nodes]
        found = [Trained(str(job.scheduler), nodes[str(job.scheduler)], job.trials[0]) for job in jobs]
        return [job for job in found if self._grows(job.trial)]

    def _grows(self, trial: str) -> bool:
        if self.folder.outcome_path(trial).exists():
            return False
        try:
            status = self.folder.curve_path(trial).stat()
        except OSError:
            return False
        return status.st_size > 0 and time.time() - status.st_mtime < FRESH_S

    def _strike(self, kind: str) -> bool:
        """False if there is nothing that it could strike now; it is tried again."""
        try:
            if kind in (CANCEL, REQUEUE, PREEMPT):
                return not self._away(CONTROLLER) and self._strike_job(kind)
            training = [] if self._away(CONTROLLER) else self._training()
            if not training or self._away(kind):
                return False
        except ClusterError:
            return False
        hit = sum(not self.folder.outcome_path(job.trial).exists() for job in training)
        if kind == DRIVER:
            self._driver.kill()
            time.sleep(self._draw.uniform(0.0, 3.0))
            self._driver.start()
        else:
            stop, start = {
                CONTROLLER: (self._cluster.stop_controller, self._cluster.start_controller),
                ACCOUNTING: (self._cluster.stop_accounting, self._cluster.start_accounting),
                MLFLOW: (self._server.stop, self._server.start),
            }[kind]
            self._take_away(kind, stop, start)
        self.faults.append(Fault(kind, hit))
        return True

    def _strike_job(self, kind: str) -> bool:
        training = self._training()
        if not training:
            return False
        victim = self._draw.choice(sorted(training, key=lambda job: job.trial))
        struck = [victim]
        if kind == CANCEL:
            self._cluster.cancel(victim.number)
        elif kind == REQUEUE:
            self._cluster.requeue(victim.number)
        else:
            struck = [job for job in training if job.node == victim.node]
            evicting = self._cluster.preempt(seconds=1, node=victim.node)
            self._cluster.wait_for(lambda: self._cluster.state(evicting) != "PENDING", "preemption")
        hit = [job for job in struck if not self.folder.outcome_path(job.trial).exists()]
        self.faults.append(Fault(kind, len(hit)))
        return True

    def _take_away(self, kind: str, stop: Callable[[], None], start: Callable[[], None]) -> None:
        away_s = self._draw.uniform(*self._setting.away_s)

        def outage() -> None:
            try:
                stop()
                time.sleep(away_s)
                start()
            except BaseException as error:
                self._errors.append(error)

        self._outages[kind] = threading.Thread(target=outage, daemon=True)
        self._outages[kind].start()


# --- what is left ---------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tally:
    """What a disturbed sweep came to; lists are of trials' ids."""

    trials: int
    expected: int
    seconds: float
    faults: Sequence[Fault]
    last_code: int | None
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    runs_a_trial: Counter[int] = field(default_factory=Counter)
    mlflow_points: list[str] = field(default_factory=list)
    resumed: int = 0
    shortest_s: float = 0.0
    median_s: float = 0.0
    fewest_checkpoints: int = 0
    compared: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def in_training(self) -> int:
        return sum(fault.hit > 0 for fault in self.faults)

    @property
    def problems(self) -> list[str]:
        """What is not as it must be; empty after a sweep that lost nothing."""
        found = {
            "trials lost": self.lost or [""] * (self.expected - self.trials),
            "trained to completion twice": self.twice,
            "curves with doubled or missing points": self.damaged,
            "trials without exactly one run in MLflow": [""] * (self.expected - self.runs_a_trial[1]),
            "MLflow curves with doubled or missing points": self.mlflow_points,
            "different from the undisturbed run": self.different,
        }
        problems = [f"{what}: {len(trials)} {' '.join(trials)}" for what, trials in found.items() if trials]
        return problems if self.last_code == 0 else [*problems, f"the last start ended with {self.last_code}"]

    def markdown(self) -> str:
        runs = ", ".join(f"{count} trials with {number}" for number, count in sorted(self.runs_a_trial.items()))
        rows = [
            ("trials, each a job", self.trials),
            ("trials lost", len(self.lost) + self.expected - self.trials),
            ("trained to completion twice", len(self.twice)),
            ("curves with doubled or missing points", len(self.damaged)),
            ("MLflow runs for each trial", runs),
            ("curves in MLflow with doubled or missing points", len(self.mlflow_points)),
            ("seconds of training for each trial: shortest, median", f"{self.shortest_s:.1f}, {self.median_s:.1f}"),
            ("checkpoints for each trial, at least", self.fewest_checkpoints),
            ("resumptions from a checkpoint", self.resumed),
            ("minutes", f"{self.seconds / 60:.1f}"),
            ("**faults**", f"**{len(self.faults)}, {self.in_training} of them in mid-training**"),
        ]
        for kind in dict.fromkeys(fault.kind for fault in self.faults):
            hits = [fault.hit for fault in self.faults if fault.kind == kind]
            rows.append((kind, f"{len(hits)}, {sum(hit > 0 for hit in hits)} in mid-training (of {sum(hits)} trials)"))
        return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def tally(chaos: Chaos, setting: Setting, uri: str) -> Tally:
    """Counts what is on disk, what was seen, and what the server has."""
    folder = chaos.folder
    trials = folder.read_trials()
    found = Tally(
        trials=len(trials),
        expected=setting.trials,
        seconds=chaos.seconds,
        faults=chaos.faults,
        last_code=chaos.last_code,
    )
    logs = "".join(path.read_text() for path in folder.jobs.glob("*.log") if path.stem != "slurm")
    found.resumed = logs.count(" resumes after step ")
    seconds = []
    for trial in trials:
        outcome = folder.read_outcome(trial.id)
        if outcome is None or outcome.state == FAILED:
            found.lost.append(trial.id)
            continue
        seconds.append(outcome.seconds)
        seen = [state for state in chaos.watcher.outcomes[trial.id].values() if state != FAILED]
        if len(seen) != 1 or logs.count(f"trial {trial.id} {outcome.state} loss") != 1:
            found.twice.append(trial.id)
        if [point["step"] for point in read_jsonl(folder.curve_path(trial.id))] != _steps(trial.run, outcome.steps):
            found.damaged.append(trial.id)
    found.shortest_s = min(seconds, default=0.0)
    found.median_s = sorted(seconds)[len(seconds) // 2] if seconds else 0.0
    found.fewest_checkpoints = min((len(chaos.watcher.checkpoints[job.id]) for job in read_jobs(folder)), default=0)
    _ask_mlflow(found, folder, uri)
    return found


def _steps(run: Mapping[str, Any], steps: int) -> list[int]:
    """Where a curve has its points."""
    from hptransfer.training.config import run_from_json

    every = -(-run_from_json(run).steps // run_from_json(run).points)
    return [step for step in range(1, steps + 1) if step % every == 1 or step == steps or every == 1]


def _ask_mlflow(found: Tally, folder: RunFolder, uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    place = str(folder.path.resolve())
    experiments = [one.experiment_id for one in client.search_experiments() if one.tags.get("folder") == place]
    runs = defaultdict(list)
    token = None
    while True:
        page = client.search_runs(experiments, max_results=1000, page_token=token)
        for run in page:
            runs[run.data.tags.get("trial")].append(run.info.run_id)
        token = page.token
        if not token:
            break
    for trial in folder.read_trials():
        found.runs_a_trial[len(runs[trial.id])] += 1
        curve = [
            (row["step"], row["loss"]) for row in read_jsonl(folder.curve_path(trial.id)) if row["loss"] is not None
        ]
        for run_id in runs[trial.id]:
            history = client.get_metric_history(run_id, "train_loss")
            if sorted((point.step, point.value) for point in history) != curve:
                found.mlflow_points.append(trial.id)


def compare(found: Tally, chaos: Chaos, setting: Setting, place: Path) -> None:
    """Trains some of the trials once more, undisturbed and in one process: one seed, three learning rates."""
    some = [word for word in setting.training if not word.startswith("space.lr.values")]
    words = [
        "launcher=inline",
        "launcher.stack=1",
        "tracker=none",
        "name=calm",
        f"runs={place}",
        f"space.lr.values=[{','.join(RATES[1:4])}]",
    ]
    with one_thread():
        done = command("sweep", "quickstart", *some, *words)
    calm = RunFolder(place / "calm")  # so few trials need not come to a prediction
    trials = calm.read_trials()
    assert trials, done.stderr
    assert all(calm.read_outcome(trial.id) for trial in trials), done.stdout + done.stderr
    for trial in trials:
        found.compared += 1
        if _numbers(calm, trial.id) != _numbers(chaos.folder, trial.id):
            found.different.append(trial.id)


@contextmanager
def one_thread() -> Iterator[None]:
    """What is started computes with one core, as the cluster's jobs do: sums are rounded by how they are split."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _numbers(folder: RunFolder, trial: str) -> Any:
    """Curve and outcome without clock times and counts of attempts; None if there are none."""
    outcome = folder.read_outcome(trial)
    if outcome is None:
        return None
    curve = [
        {key: value for key, value in row.items() if key != "time"} for row in read_jsonl(folder.curve_path(trial))
    ]
    return curve, outcome.state, outcome.loss, outcome.loss_se, outcome.steps, outcome.groups
