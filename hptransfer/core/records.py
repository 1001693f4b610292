"""Objective, Scale, Trial, Outcome and Job: the records that the stages exchange.

Trials, tables and figures show the metric with its own sign. Comparisons and fits minimize, so a metric to be maximized
is negated by `Objective.minimized` as it is read, and by `shown` before it is shown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from hptransfer.core.errors import ConfigError, unknown

Number = int | float

SWEEP = "sweep"
VERIFY = "verify"
SMOKE = "smoke"

DONE = "done"
DIVERGED = "diverged"
PRUNED = "pruned"
FAILED = "failed"

# Causes of a failed trial, or of a worker that ended before its job did. Each has its own retry rule.
CODE_ERROR = "code error"
OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
NODE_FAILURE = "node failure"
PREEMPTED = "preempted"
CANCELLED = "cancelled"
KILLED = "killed"
CAUSES = (CODE_ERROR, OUT_OF_MEMORY, TIME_LIMIT, NODE_FAILURE, PREEMPTED, CANCELLED, KILLED)

# Numbers from here on have an exponent, even whole ones; others of five and six digits have none.
LONG_NUMBER, LEAST_OF_FIVE_DIGITS, MOST_OF_SIX_DIGITS = 1e15, 1e4, 1e6
PADDED_EXPONENT = re.compile(r"e(-?)0+(?=\d)")

TRIAL_ID = re.compile(r"\w[\w=.,-]*", re.ASCII)
SCHEDULER_ID = re.compile(r"\w[\w.:/-]*", re.ASCII)
"""Ids of jobs in any scheduler: no options, and no spaces."""

CURVE_KEYS = frozenset({"step", "tokens", "loss", "time"})
"""Keys of every point of a curve. A model may report further ones, such as the load of its experts."""


def short(value: Number) -> str:
    """Format a number for people, with four digits: 65536, 0.01563, 1e-5."""
    if isinstance(value, int) and abs(value) < LONG_NUMBER:
        return str(value)
    if LEAST_OF_FIVE_DIGITS <= abs(value) < MOST_OF_SIX_DIGITS:
        return str(int(value)) if value % 1 == 0 else f"{float(f'{value:.4g}'):.0f}"
    return plain_exponent(f"{value:.4g}")


def plain_exponent(text: str) -> str:
    """Return a number's text with a short exponent: 1e9 for 1e+09."""
    return PADDED_EXPONENT.sub(r"e\1", text.replace("e+", "e"))


def exact(value: Number) -> str:
    """Format a number exactly; only equal values share a text."""
    return str(int(value)) if value % 1 == 0 else repr(value)


def format_distinct(values: Iterable[Number]) -> dict[Number, str]:
    """Format values with four digits, or exactly if two would print alike."""
    shown = {value: short(value) for value in values}
    counts = Counter(shown.values())
    return {value: text if counts[text] == 1 else exact(value) for value, text in shown.items()}


MINIMIZE, MAXIMIZE = "minimize", "maximize"
GOALS = (MINIMIZE, MAXIMIZE)
NATS = "nats"
# Words in the names of metrics that are usually maximized.
MAXIMIZED_WORDS = frozenset(
    (
        *("acc", "accuracy", "auc", "auroc", "bleu", "f1", "iou", "psnr", "recall", "return", "returns", "reward"),
        *("rewards", "rouge", "score", "scores", "ssim"),
    )
)
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+")
LOG_ESTIMATORS = ("geometric_mean", "nested")
"""Estimators that are defined by the logarithm or by ratios of a loss, which must be above 0."""


@dataclass(frozen=True)
class Objective:
    """Name, goal and unit of the metric that ranks trials.

    Attributes:
        unit: such as nats; blank for a metric without one.
    """

    name: str = "loss"
    goal: str = MINIMIZE
    unit: str = ""

    @classmethod
    def of(cls, name: str, goal: str | None, unit: str | None, place: str) -> Objective:
        """Return an objective, with the goal to minimize if none is given.

        Args:
            place: of the goal, for messages.

        Raises:
            ConfigError: the goal is unknown, or it is not given and the name is that of a metric to be maximized.
        """
        if goal is not None and goal not in GOALS:
            raise ConfigError(f"{place}: {unknown('goal', goal, GOALS)}")
        if goal is None and MAXIMIZED_WORDS & {word.lower() for word in _WORDS.findall(name)}:
            raise ConfigError(
                f"{place} must be given for a metric named {name!r}, which is usually maximized; give {MAXIMIZE} or "
                f"{MINIMIZE}"
            )
        return cls(name, goal or MINIMIZE, unit or "")

    @classmethod
    def of_target(cls, target: Mapping[str, Any]) -> Objective:
        """Return the objective that a target.json holds.

        Earlier versions minimized every metric. They wrote no unit: it is nats, unless the trials run a script.
        """
        if "metric" in target:
            return cls(**target["metric"])
        return cls(unit="" if "command" in target else NATS)

    @property
    def maximized(self) -> bool:
        """True if larger values are better."""
        return self.goal == MAXIMIZE

    @property
    def sign(self) -> int:
        """Factor between the metric and a number to be minimized."""
        return -1 if self.maximized else 1

    def minimized(self, value: float) -> float:
        """Return a value of the metric as a number to be minimized."""
        return self.sign * value

    shown = minimized
    """Return a minimized number as a value of the metric."""

    @property
    def label(self) -> str:
        """Name and unit, such as "loss, nats"."""
        return self.with_unit(self.name + ",") if self.unit else self.name

    def with_unit(self, text: str) -> str:
        """Return a number's text with the unit behind it."""
        return f"{text} {self.unit}" if self.unit else text


LOSS = Objective()
"""A loss without a unit."""


@dataclass(frozen=True)
class Scale:
    """Scale of a model and its training: a value for every axis."""

    axes: Mapping[str, Number]

    @cached_property
    def name(self) -> str:
        """Text for people, with four digits: "width=32,depth=2,tokens=32768"."""
        return ",".join(f"{axis}={short(value)}" for axis, value in self.axes.items())

    @cached_property
    def key(self) -> str:
        """Exact text for identities: equal scales, and no others, share it.

        Scales that print alike have different keys; 64 and 64.0 have the same.
        """
        return ",".join(f"{axis}={exact(value)}" for axis, value in self.axes.items())

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Training run at one scale, point of the search space and seed.

    Attributes:
        run: the resolved configuration of the run, as plain JSON values.
        purpose: SWEEP (enters the fit), VERIFY, or SMOKE (a shortened trial; both never do).
        flops: training FLOPs (forward and backward) by the model's formula.
        params: all trainable parameters.
    """

    id: str
    scale: Scale
    tuned: Mapping[str, float]
    seed: int
    run: Mapping[str, Any]
    purpose: str = SWEEP
    flops: float
    params: int

    @property
    def name(self) -> str:
        """Text for people: "width=32,depth=2,tokens=32768 lr=0.01563 seed=0"."""
        tuned = " ".join(f"{key}={short(value)}" for key, value in self.tuned.items())
        return f"{self.scale.key} {tuned} seed={self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {**asdict(self), "scale": dict(self.scale.axes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], trial_id: str) -> Trial:
        """Return the trial that a file holds.

        Raises:
            ValueError: the file is of another trial.
        """
        trial = cls(**{**values, "scale": Scale(values["scale"])})
        if trial.id != trial_id:
            raise ValueError(f"its id: {trial.id!r}")
        return trial


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a trial that ended.

    Attributes:
        state: DONE, DIVERGED, PRUNED (stopped early, as other trials of its scale were better) or FAILED.
        loss: the metric that ranks trials, with its own sign (run.loss of the builtin trainer); None unless done.
        loss_se: its standard error over the held-out windows or steps; None unless done, and with one window.
        initial_loss: training loss at the first step.
        seconds: wall time on its device: an equal share of the stack's time.
        stack: number of trials in its stack.
        attempts: number of attempts at the trial.
        error: one line, if failed.
        cause: one of CAUSES, if failed.
        node: the scheduler's node on which it was trained.
        missing: why a trial whose program exited with code 0 has no result; it counts as diverged or failed then, as
            its run declares. None for any other trial.
        imported: table and row that the trial was taken from; None if it was trained here.
        groups: settings of each parameter group: role, peak learning rate, and the optimizer's other settings. Its
            `parameters` hold the spread of the initial values, the multiplier and the branch factor by name.
    """

    state: str
    loss: float | None = None
    loss_se: float | None = None
    initial_loss: float | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stack: int = 1
    attempts: int = 1
    error: str | None = None
    cause: str | None = None
    node: str | None = None
    missing: str | None = None
    imported: str | None = None
    groups: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.state not in (DONE, DIVERGED, PRUNED, FAILED) or (self.state == DONE) != isinstance(self.loss, float):
            raise ValueError(f"state {self.state!r} with loss {self.loss!r}")

    def missing_result(self, state: str, reason: str) -> Outcome:
        """Return this outcome as one without a result, by a rule.

        Args:
            state: DIVERGED or FAILED.
        """
        failed = state == FAILED
        return replace(
            self,
            state=state,
            loss=None,
            loss_se=None,
            tokens=0,
            error=reason if failed else None,
            cause=CODE_ERROR if failed else None,
            missing=reason,
        )

    @property
    def label(self) -> str:
        """State for people: a cancelled trial has not failed."""
        return CANCELLED if self.state == FAILED and self.cause == CANCELLED else self.state

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Return the outcome that a file holds."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Trials of one scale for one worker.

    A job keeps its id and its trials, and so its stacks, through all attempts.

    Attributes:
        params: parameters of one trial.
        flops: training FLOPs of all its trials.
        seconds: estimated wall time of all its trials on one worker; None if nothing was measured.
        attempt: 1, and one more each time it is submitted again.
        scheduler: the scheduler's id for it, such as "1234_5"; None without a scheduler.
        submitted: time of submission, in seconds since 1970.
    """

    id: str
    trials: Sequence[str]
    scale: Scale
    params: int
    flops: float
    seconds: float | None = None
    attempt: int = 1
    scheduler: str | None = None
    submitted: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {**asdict(self), "trials": list(self.trials), "scale": dict(self.scale.axes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], job_id: str) -> Job:
        """Return the job that a file holds.

        Ids become paths, and parts of scripts and of the scheduler's commands.

        Raises:
            ValueError: the file is of another job, or an id or the attempt cannot be one.
        """
        job = cls(**{**values, "scale": Scale(values["scale"])})
        if job.id != job_id:
            raise ValueError(f"its id: {job.id!r}")
        for trial_id in job.trials:
            if not isinstance(trial_id, str) or not TRIAL_ID.fullmatch(trial_id):
                raise ValueError(f"trial {trial_id!r}")
        if type(job.attempt) is not int or job.attempt < 1:
            raise ValueError(f"attempt {job.attempt!r}")
        if job.scheduler is not None and not (isinstance(job.scheduler, str) and SCHEDULER_ID.fullmatch(job.scheduler)):
            raise ValueError(f"scheduler {job.scheduler!r}")
        return job


def digest(values: Any) -> str:
    """Hash a JSON value to twelve hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def trial_id(run: Mapping[str, Any], seed: int, purpose: str = SWEEP) -> str:
    """Return a trial's id: a hash of resolved configuration, seed and purpose."""
    return digest({"run": run, "seed": seed, "purpose": purpose})


def get_path(tree: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path.

    Raises:
        ConfigError: the path does not exist.
    """
    node: Any = tree
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            raise ConfigError(f"path {path!r} does not exist in the run's configuration")
        node = node[key]
    return node


def with_path(tree: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Copy a tree with another value at a dotted path.

    Raises:
        ConfigError: the path does not exist, or is not a leaf.
    """
    head, _, subpath = path.partition(".")
    if not isinstance(tree, Mapping) or head not in tree:
        raise ConfigError(f"path {path!r} does not exist in the run's configuration")
    if not subpath and isinstance(tree[head], Mapping):
        raise ConfigError(f"{head!r} has keys of its own; end the path in one of them: {', '.join(tree[head])}")
    return {**tree, head: with_path(tree[head], subpath, value) if subpath else value}
