"""Schema of a sweep file, and its resolved form on disk."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config.notifications import HooksConfig
from hptransfer.config.renamed import translate_old_words
from hptransfer.config.retry import RetryConfig
from hptransfer.config.yaml_files import LOADER, read_bounded
from hptransfer.core.bracketing import LARGEST_VALUE, SMALLEST_VALUE, canonical, near_repeat
from hptransfer.core.errors import ConfigError, RunFolderError, unknown
from hptransfer.core.io import reading
from hptransfer.core.loader import load, members_of
from hptransfer.core.records import Number, short
from hptransfer.core.redaction import passwords
from hptransfer.core.registry import Registry
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import LAUNCHERS
from hptransfer.samplers import SAMPLERS
from hptransfer.trackers import TRACKERS
from hptransfer.worker.runners import RUNNERS, Runner

PRODUCT, ONE_AT_A_TIME = DESIGNS = ("product", "one_at_a_time")
ONE_MINUS = "one_minus"
ALL, FIRST = STAGES = ("all", "first")
# Names that become a folder, a file or a job.
NAME = re.compile(r"\w([\w .,=+-]{0,118}[\w.,=+-])?")
KEY = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
# Factor on the limits of a sweep file for a run's sweep.yaml, which holds all defaults and overrides, too.
ROOM = 20
DRIVERS = ("local", "slurm")
MOST_VALUES = 1_000
"""Largest number of values of an axis or a tuned hyperparameter."""
MOST_SEEDS = 10_000
"""Largest number of repeats of every trial."""
LARGEST_SEED = 2**63 - 1


@dataclass(kw_only=True)
class AxisConfig:
    """One axis of the proxy grid."""

    path: str = ""
    """Key that gets the value, such as run.model.width; for a script it may be left out: the axis' own name."""
    values: list[Any]
    """Numbers above 0."""
    center: Any = None
    """Under scales=one_at_a_time, the value at which the other axes are swept."""


@dataclass(kw_only=True)
class TunedConfig:
    """One tuned hyperparameter: `values`, or `count` values from `low` to `high`."""

    path: str = ""
    """Key that gets the value, such as run.optimizer.lr; for a script it may be left out: its own name."""
    values: list[float] | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    log: bool = True
    """Equal ratios between the values instead of equal steps."""
    transform: str | None = None
    """one_minus: the run gets 1 minus the value. For momentum and betas, whose distance to 1 varies by factors."""
    center: float | None = None
    """Under design=one_at_a_time, the value at which the others are swept; the middle one unless given."""
    extend: int = 6
    """Further values that a scale may get on one side while its best value is at that edge."""

    @property
    def one_minus(self) -> bool:
        """True if the run gets 1 minus the value."""
        return self.transform == ONE_MINUS

    @property
    def largest(self) -> float:
        """Upper bound of the values."""
        return 1.0 if self.one_minus else math.inf

    def grid(self, place: str) -> list[float]:
        """Return the values, ascending.

        Raises:
            ConfigError: the values are incomplete, too few or not above 0.
        """
        if self.values is None and (self.low is None or self.high is None or self.count is None):
            raise ConfigError(f"{place} needs `values`, or all of `low`, `high` and `count`")
        count = self.count if self.values is None else len(self.values)
        if count is not None and count > MOST_VALUES:
            raise ConfigError(f"{place} has {count:,} values, at most {MOST_VALUES:,} are possible; take fewer")
        values = self._spaced(place) if self.values is None else sorted(float(value) for value in self.values)
        for value in values:
            if not 0 < value < math.inf:
                raise ConfigError(f"{place} must be above 0 and finite, got {value:g}; remove that value")
            if not SMALLEST_VALUE <= value <= LARGEST_VALUE:
                raise ConfigError(
                    f"{place} must be from {SMALLEST_VALUE:g} to {LARGEST_VALUE:g}, got {value:g}; remove that value"
                )
            if value > self.largest:
                raise ConfigError(f"{place} must be at most 1, as the run gets 1 minus it, got {value:g}; remove it")
        if len(values) < 3 or len(set(values)) < len(values):
            raise ConfigError(f"{place} needs at least 3 different values to bracket an optimum, got {values}")
        _refuse_near_repeat(f"{place}.values", values)
        return values

    def middle(self, place: str) -> float:
        """Return the value at which the others are swept under design=one_at_a_time.

        Raises:
            ConfigError: `center` is not one of the values.
        """
        values = self.grid(place)
        if self.center is None:
            return values[len(values) // 2]
        if self.center not in values:
            raise ConfigError(f"{place}.center must be one of its values {values}, got {self.center}")
        return self.center

    def _spaced(self, place: str) -> list[float]:
        assert self.low is not None
        assert self.high is not None
        assert self.count is not None
        if not 0 < self.low < self.high < math.inf:
            raise ConfigError(f"{place} needs 0 < low < high, both finite, got low {self.low:g} and high {self.high:g}")
        if self.count < 3:
            raise ConfigError(f"{place}.count must be at least 3 to bracket an optimum, got {self.count}")
        shares = [index / (self.count - 1) for index in range(self.count)]
        if self.log:
            inner = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            inner = [self.low + (self.high - self.low) * share for share in shares]
        return [canonical(value) for value in inner]


@dataclass(kw_only=True)
class BudgetConfig:
    """Limits at which no further trials are started; null: no limit."""

    trials: int | None = None
    """Trials started."""
    flops: float | None = None
    """Training FLOPs of the trials started."""
    device_hours: float | None = None
    """Hours of GPUs, or of workers without one: measured for finished trials, estimated for running ones."""


@dataclass(kw_only=True)
class HalvingConfig:
    """Successive halving: trials that fall behind others of their scale stop early."""

    share: float | None = None
    """Share of a trial's tokens after which it is first compared; null: every trial is trained to its end."""
    factor: int = 3
    """One trial in `factor` continues, and is compared again after `factor` times the tokens."""
    sides: int = 2
    """Points on either side of the leading one that are trained to their end anyway, because the fit needs them."""

    def note(self) -> str | None:
        """Return a caution for users of halving; None if it is off."""
        if self.share is None:
            return None
        return (
            "halving compares trials by their loss during training: a high learning rate often leads there and loses "
            "at the end, because a decaying schedule pays off late; stopped trials are left out of the fit"
        )

    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""
        if self.share is not None and not 0 < self.share < 1:  # NaN is not
            raise ConfigError(
                f"{place}.share must be above 0 and below 1, got {self.share}; null trains every trial to its end"
            )
        if self.factor < 2:
            raise ConfigError(f"{place}.factor must be at least 2, of which one continues, got {self.factor}")
        if self.sides < 0:
            raise ConfigError(
                f"{place}.sides must be at least 0, got {self.sides}; 2 leaves the fit five points where the same "
                "one leads throughout"
            )
        if self.share is None and self != HalvingConfig():
            raise ConfigError(f"{place}.share is null, so the rest of {place} does nothing; set it, such as 0.25")


@dataclass(kw_only=True)
class SweepConfig:
    """A sweep: a run, its scale axes, tuned hyperparameters and target."""

    name: str
    """The run's folder is <runs>/<name>."""
    runs: str = "runs"
    """Folder of all runs."""
    run: Any
    """Configuration of one training run, without the swept values."""
    grid: dict[str, AxisConfig]
    """Axes of the proxy grid."""
    scales: str = "product"
    """product: every combination of the axes' values; or one_at_a_time: one axis varies, the others at `center`."""
    space: dict[str, TunedConfig]
    """Tuned hyperparameters."""
    design: str = "product"
    """Points of several tuned hyperparameters: product, or one_at_a_time around their `center`."""
    estimator: str = "surface"
    """Estimator of each scale's optimum; see `hptransfer list estimator`."""
    laws: list[str] = field(default_factory=list)
    """Forms of law that are averaged; empty: all that apply. See `hptransfer list law`."""
    target: dict[str, Any] = field(default_factory=dict)
    """The scale to predict for; an axis that is left out is the largest of the grid."""
    seeds: Any = 1
    """Repeats of every trial: their number, or a list of seeds."""
    sampler: Any
    launcher: Any
    tracker: Any
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    halving: HalvingConfig = field(default_factory=HalvingConfig)
    """Successive halving within a scale, by Optuna."""
    retry: RetryConfig = field(default_factory=RetryConfig)
    """Retries of unfinished trials, by cause."""
    stage: str = ALL
    """all; or first: each scale starts with its pilot trial, the middle value, and the others wait for it."""
    hooks: HooksConfig = field(default_factory=HooksConfig)
    """Notifications when the sweep ends or needs a person."""
    share: str | None = None
    """Group of users that may read and write the run's folder; null: its owner alone."""
    snapshot: bool = False
    """Train from a copy of the source tree (files tracked by git) in the run's folder."""
    driver: str = "local"
    """local: the driver is this process; or slurm: it is a job of its own, as launcher=slurm configures."""
    variables: dict[str, str] = field(default_factory=dict)
    """Written by the tool: a digest of every variable of the environment that was read, except secrets, by name."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.runs) / self.name)

    def seed_list(self) -> list[int]:
        """Return the seeds of each point.

        Raises:
            ConfigError: `seeds` is neither a number above 0 nor a list of different whole numbers, or has too many.
        """
        seeds = self.seeds
        count = len(seeds) if isinstance(seeds, Sequence) else seeds
        if isinstance(count, int) and count > MOST_SEEDS:
            raise ConfigError(
                f"seeds has {count:,} repeats of a trial, at most {MOST_SEEDS:,} are possible; take fewer"
            )
        if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
            return list(range(seeds))
        good = isinstance(seeds, Sequence) and all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in seeds)
        if not good or not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds must be a number above 0 or a list of different whole numbers, got {seeds!r}")
        return list(seeds)

    def check(self) -> None:
        """Raise ConfigError if a value breaks a rule that needs no run."""
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                "name must be a plain folder name (letters, digits and _ . , = + - or blanks inside, at most 120), "
                f"got {self.name!r}"
            )
        for place, keys in (("grid", self.grid), ("space", self.space)):
            for key in keys:
                if not KEY.fullmatch(key):
                    raise ConfigError(
                        f"{place}: a name must be letters, digits and _ . - alone, got {key!r}; rename it"
                    )
        if not self.space:
            raise ConfigError("space must have at least one tuned hyperparameter, such as lr")
        if self.design not in DESIGNS:
            raise ConfigError(f"design: {unknown('choice', self.design, DESIGNS)}")
        if not self.grid:
            raise ConfigError("grid must have at least one axis, such as width")
        if self.scales not in DESIGNS:
            raise ConfigError(f"scales: {unknown('choice', self.scales, DESIGNS)}")
        for key, axis in self.grid.items():
            check_axis(f"grid.{key}.values", axis.values)
            if self.scales == ONE_AT_A_TIME and axis.center not in axis.values:
                raise ConfigError(
                    f"grid.{key}.center must be one of its values {list(axis.values)} under scales={ONE_AT_A_TIME}, "
                    f"got {axis.center}"
                )
        for key, tuned in self.space.items():
            if tuned.transform not in (None, ONE_MINUS):
                raise ConfigError(f"space.{key}.transform: {unknown('transform', tuned.transform, [ONE_MINUS])}")
            tuned.middle(f"space.{key}")
            if key in self.grid:
                raise ConfigError(f"{key!r} is under both grid and space; give one of them another name")
            if tuned.extend < 0:
                raise ConfigError(f"space.{key}.extend must be at least 0, got {tuned.extend}")
        self.seed_list()
        for key, value in self.target.items():
            if key not in self.grid:
                raise ConfigError(f"target: {unknown('axis', key, self.grid)}")
            check_axis(f"target.{key}", [value])
        for key, limit in dataclasses.asdict(self.budget).items():
            if limit is not None and not limit > 0:  # NaN is not
                raise ConfigError(f"budget.{key} must be above 0, got {limit}; leave it out for no limit")
        if self.stage not in STAGES:
            raise ConfigError(f"stage: {unknown('choice', self.stage, STAGES)}")
        self._check_halving()
        self.retry.check("retry")
        self.hooks.check("hooks")
        self._refuse_passwords()
        if self.snapshot and not self._runner().has_source_tree:
            raise ConfigError("snapshot: only run=script trains from a source tree; leave it out")
        if self.driver not in DRIVERS:
            raise ConfigError(f"driver: {unknown('choice', self.driver, DRIVERS)}")
        if self.driver == "slurm" and not self.launcher.is_cluster:
            raise ConfigError(f"driver=slurm needs launcher=slurm, which says how, got launcher={self.launcher.name}")
        self.sampler.check("sampler")
        self.launcher.check("launcher")

    def _check_halving(self) -> None:
        self.halving.check("halving")
        if self.halving.share is None:
            return
        if not self._runner().can_prune:
            raise ConfigError(
                f"halving.share is {self.halving.share:g}, but trials of run={self.run['runner']} cannot be stopped "
                "while they train; leave it out"
            )
        if not self.launcher.watches_trials:
            raise ConfigError(
                f"halving.share is {self.halving.share:g}, but launcher={self.launcher.name} trains in the driver's "
                "own process, which cannot watch its trials meanwhile; take launcher=local, or leave it out"
            )

    def _runner(self) -> Runner:
        return RUNNERS.get(self.run["runner"])

    def _refuse_passwords(self) -> None:
        """Raise ConfigError for a password outside the tracker's address.

        That address is stored without its password.
        """
        for place in passwords({**dataclasses.asdict(self), "tracker": None}, ""):
            raise ConfigError(
                f"{place} holds a password in a URI, which would be stored with every trial; leave it out there and "
                "have the program read it from its environment"
            )


def check_axis(place: str, values: Sequence[Any]) -> None:
    """Raise ConfigError unless the values are different numbers above 0."""
    if len(values) > MOST_VALUES:
        raise ConfigError(f"{place} has {len(values):,} values, at most {MOST_VALUES:,} are possible; take fewer")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Number) or not 0 < value < math.inf:
            raise ConfigError(f"{place} must be numbers above 0, got {value!r}")
        if not SMALLEST_VALUE <= value <= LARGEST_VALUE:
            raise ConfigError(
                f"{place} must be from {short(SMALLEST_VALUE)} to {short(LARGEST_VALUE)}, got {short(value)}"
            )
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"{place} must be different numbers, at least one, got {list(values)}")
    _refuse_near_repeat(place, values)


def _refuse_near_repeat(place: str, values: Sequence[float]) -> None:
    """Raise ConfigError for two values that differ by rounding only."""
    if pair := near_repeat(values):
        raise ConfigError(f"{place}: {pair[0]!r} and {pair[1]!r} agree to twelve digits; leave one of them out")


def read_axes(words: Sequence[str], axes: Collection[str], option: str = "") -> dict[str, float]:
    """Return the values of AXIS=VALUE words from the command line.

    Args:
        axes: axes of the run's grid.
        option: what stands before a word on the command line, for messages; with a blank at its end.

    Raises:
        ConfigError: an axis does not exist, or a value is not a number above 0.
    """
    values: dict[str, float] = {}
    for word in words:
        axis, _, text = word.partition("=")
        if axis not in axes:
            raise ConfigError(unknown("axis", axis, axes))
        if axis in values:
            raise ConfigError(f"{option}{axis} is given twice, as {values[axis]:.12g} and {text}; give it once")
        try:
            values[axis] = float(text)
        except ValueError:
            raise ConfigError(f"{option}{axis} must be a number, as in {option}{axis}=64, got {text!r}") from None
        check_axis(f"{option}{axis}", [values[axis]])
    return values


SWEEP_FAMILIES: Mapping[str, Registry[Any]] = {"sampler": SAMPLERS, "launcher": LAUNCHERS, "tracker": TRACKERS}
SWEEP_MEMBERS = members_of(SWEEP_FAMILIES)


def sweep_from_json(values: Mapping[str, Any]) -> SweepConfig:
    """Build a sweep from plain values; `run` stays plain.

    Raises:
        ConfigError: an unknown key, a missing one, or a value that breaks a rule.
    """
    config = load(SweepConfig, values, members=SWEEP_MEMBERS)
    config.check()
    return config


def placed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep's plain values with a path for every part.

    Parts are the axes of the grid and the tuned hyperparameters of the space.

    A run with names of its own gets the swept ones added to them.
    """
    run = values.get("run")
    if not isinstance(run, Mapping):
        return dict(values)
    run = dict(run)
    sweeps_names = RUNNERS.get(run["runner"]).sweeps_names
    new: dict[str, Any] = {}
    for family in ("grid", "space"):
        parts = values.get(family)
        if not isinstance(parts, Mapping) or not all(isinstance(part, Mapping) for part in parts.values()):
            continue  # the loader refuses it
        new[family] = dict(parts)
        for key, part in parts.items():
            place = f"{family}.{key}"
            path = str(part.get("path") or _own_path(place, part, sweeps_names))
            new[family][key] = {**part, "path": path}
            if sweeps_names:
                run["names"] = {_name(place, path): None} | run["names"]
    return {**values, **new, "run": run}


NAMES = "run.names"


def _name(place: str, path: str) -> str:
    names, _, name = path.rpartition(".")
    if names != NAMES:
        raise ConfigError(f"{place}.path must be {NAMES}.NAME under run=script, got {path!r}; or leave it out")
    return name


def _own_path(place: str, part: Mapping[str, Any], sweeps_names: bool) -> str:
    if not sweeps_names:
        raise ConfigError(f"{place}.path must be given, such as run.model.width")
    if part.get("transform") == ONE_MINUS:
        raise ConfigError(f"{place}.path must be given: {NAMES}.NAME, the name whose value is 1 minus it")
    return f"{NAMES}.{place.partition('.')[2]}"


def dump_sweep(config: SweepConfig) -> str:
    """Return the resolved sweep as YAML."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def load_sweep(folder: RunFolder) -> SweepConfig:
    """Return the sweep of a run folder.

    Its name and place are those of the folder now. Words of version 0.1 are translated.

    Raises:
        RunFolderError: sweep.yaml is damaged.
    """
    place = folder.path.absolute()
    try:
        with reading(folder.sweep):
            values = yaml.load(read_bounded(folder.sweep, ROOM), Loader=LOADER)
            return sweep_from_json(
                {**translate_old_words(values), "name": place.name, "runs": str(_near(place.parent))}
            )
    except (yaml.YAMLError, ConfigError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{folder.sweep} cannot be used ({reason}); repair it, or move it away and sweep again"
        ) from None


def _near(path: Path) -> Path:
    """Return a path below the current directory as a relative one."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
