"""Plan of a sweep: its scales, points, trials and their FLOPs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hptransfer.config.sweep import ONE_AT_A_TIME, SweepConfig
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import (
    LOG_ESTIMATORS,
    SWEEP,
    Job,
    Number,
    Objective,
    Scale,
    Trial,
    get_path,
    trial_id,
    with_path,
)
from hptransfer.planning.search_space import Point, one_at_a_time, product
from hptransfer.worker.runners import RUNNERS, Runner, Size

MOST_SCALES = 1_000
MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Plan:
    """A checked sweep: every scale and the target can be trained.

    Attributes:
        points: points that every scale tries; a sampler that chooses its own does not use them.
        fingerprint: hash of the data or the script.
        shortened: True if runs have the few steps of a smoke trial.
    """

    config: SweepConfig
    runner: Runner
    scales: tuple[Scale, ...]
    target: Scale
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    fingerprint: str
    shortened: bool = False

    @property
    def tuned(self) -> tuple[str, ...]:
        """Keys of the tuned hyperparameters."""
        return tuple(self.config.space)

    @cached_property
    def objective(self) -> Objective:
        """Metric that ranks the trials."""
        return self.runner.objective(self.config.run)

    @cached_property
    def grids(self) -> dict[str, list[float]]:
        """Values of each tuned hyperparameter, ascending."""
        return {key: tuned.grid(f"space.{key}") for key, tuned in self.config.space.items()}

    @cached_property
    def sizes(self) -> dict[Scale, Size]:
        """Cost of one trial at every scale and at the target."""
        return {scale: self.runner.size(self.run(scale)) for scale in (*self.scales, self.target)}

    @property
    def num_points(self) -> int:
        """Points that every scale tries, before any extension."""
        return self.config.sampler.points or len(self.points)

    def num_trials(self, scale: Scale) -> int:
        """Return the number of trials of a scale, before any extension.

        It is 0 for a scale outside the grid.
        """
        return self.num_points * len(self.seeds) if scale in self.scales else 0

    def job_size(self, run: Mapping[str, Any]) -> int:
        """Return the most trials of a run's shape in one job."""
        return self.runner.job_size(run, gpu=self.config.launcher.has_gpu(self.runner.gpus()))

    def flops(self) -> float:
        """Return the training FLOPs of the whole sweep, before any extension."""
        return sum(self.num_trials(scale) * self.sizes[scale].flops for scale in self.scales)

    def run(self, scale: Scale, tuned: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Return the resolved configuration of one run."""
        tree: dict[str, Any] = {"run": self.config.run}
        for key, value in scale.axes.items():
            tree = _set(tree, self.config.grid[key].path, value, f"grid.{key}")
        for key, value in (tuned or {}).items():
            config = self.config.space[key]
            tree = _set(tree, config.path, 1 - value if config.one_minus else value, f"space.{key}")
        return self.runner.shortened(tree["run"]) if self.shortened else dict(tree["run"])

    def trial(self, scale: Scale, tuned: Mapping[str, float], seed: int, purpose: str = SWEEP) -> Trial:
        """Return the trial of one point at one scale."""
        run = self.run(scale, tuned)
        size = self.sizes[scale] if scale in self.sizes else self.runner.size(run)
        return Trial(
            id=trial_id(self.runner.identity_settings(run), seed, purpose),
            scale=scale,
            tuned=dict(tuned),
            seed=seed,
            run=run,
            purpose=purpose,
            flops=size.flops,
            params=size.params,
        )

    def scale(self, axes: Mapping[str, Number]) -> Scale:
        """Return the target with some axes changed, checked.

        Raises:
            ConfigError: the run cannot be trained at that scale.
        """
        scale = Scale({key: _cast(self, key, axes.get(key, value)) for key, value in self.target.axes.items()})
        if problem := _problem(self, scale):
            raise ConfigError(f"{scale.key}: {problem}")
        return scale

    def target_json(self, target: Scale | None = None) -> dict[str, Any]:
        """Return the content of target.json for the target or another scale.

        It is all that analyze and export read of the sweep.
        """
        target = target or self.target
        run = self.run(target)
        size = self.runner.size(run)
        return {
            "name": self.config.name,
            "scales": list(self.config.grid),
            "tuned": {key: tuned.path for key, tuned in self.config.space.items()},
            "complement": [key for key, tuned in self.config.space.items() if tuned.one_minus],
            "target": dict(target.axes),
            "metric": dataclasses.asdict(self.objective),
            "params": size.params,
            "flops": size.flops,
            **self.runner.groups(run),
            "estimator": self.config.estimator,
            "laws": self.config.laws,
            "parameterization": self.config.run.get("parameterization"),
            "fingerprint": self.fingerprint,
            "run": run,
        }


def make_plan(config: SweepConfig) -> Plan:
    """Return the checked plan of a sweep.

    Raises:
        ConfigError: a scale, a value or the target breaks a rule of the run.
        DataError: the data is missing or too small.
    """
    runner = RUNNERS.get(config.run["runner"])
    for key, axis in config.grid.items():
        _set({"run": config.run}, axis.path, None, f"grid.{key}")
    for key, tuned in config.space.items():
        _set({"run": config.run}, tuned.path, None, f"space.{key}")
        current = get_path({"run": config.run}, tuned.path)
        if isinstance(current, int | str):  # bool too
            raise ConfigError(
                f"space.{key}.path: {tuned.path} is {current!r}, which has no values in between; make it an axis of "
                "the grid, or set it for all trials"
            )
    _check_numbers(config)
    axes = {key: [_cast_to(config, key, value) for value in axis.values] for key, axis in config.grid.items()}
    scales = _scales(config, axes)
    target = Scale({key: _cast_to(config, key, config.target.get(key, max(axes[key]))) for key in axes})
    plan = Plan(
        config=config,
        runner=runner,
        scales=scales,
        target=target,
        points=_points(config),
        seeds=tuple(config.seed_list()),
        fingerprint="",
    )
    _check_all(plan)
    if plan.objective.maximized and config.estimator in LOG_ESTIMATORS:
        raise ConfigError(
            f"estimator={config.estimator} compares ratios or logarithms of a loss to be minimized, and "
            f"{plan.objective.name} is to be maximized; take estimator=surface"
        )
    swept = [part.path.rpartition(".")[2] for parts in (config.grid, config.space) for part in parts.values()]
    runner.check_swept(plan.run(target), [*swept, *(["seed"] if len(plan.seeds) > 1 else [])])
    for key, values in axes.items():
        if len(values) == 1 and target.axes[key] != values[0]:
            raise ConfigError(
                f"target.{key} is {target.axes[key]}, but grid.{key}.values has only {values[0]}: no law can say how "
                f"the optimum moves with {key}; give the grid two values of it, or set target.{key}={values[0]}"
            )
    config.launcher.check_jobs(job for scale in scales for job in itertools.islice(jobs_of(plan, scale), 1))
    return dataclasses.replace(plan, fingerprint=runner.fingerprint(plan.run(target)))


def jobs_of(plan: Plan, scale: Scale) -> Iterator[tuple[Job, Number | None]]:
    """Yield the largest jobs of a scale, with a trial's tokens.

    Their ids and trials are stand-ins.
    """
    remaining, job_size = plan.num_trials(scale), plan.job_size(plan.run(scale))
    while remaining > 0:
        count = min(remaining, job_size)
        remaining -= count
        yield _stand_in(plan, scale, count, remaining)


def _stand_in(plan: Plan, scale: Scale, count: int, number: int) -> tuple[Job, Number | None]:
    """Return a job of `count` trials, and the tokens of one."""
    run = plan.run(scale)
    size, tokens = plan.sizes.get(scale) or plan.runner.size(run), run.get("tokens")
    job = Job(
        id=f"{scale.key.replace('=', '').replace(',', '-')}-{number}",
        trials=[""] * count,
        scale=scale,
        params=size.params,
        flops=count * size.flops,
    )
    return job, tokens if isinstance(tokens, Number) else None


def num_devices(plan: Plan, scale: Scale) -> int:
    """Return the number of devices that a trial of a scale holds."""
    count: int = plan.config.launcher.num_devices(*_stand_in(plan, scale, 1, 0), plan.runner.gpus())
    return count


def _check_numbers(config: SweepConfig) -> None:
    """Raise ConfigError if a plan would have too many scales or trials.

    Nothing is made before their numbers are known.
    """
    scales = _number([len(axis.values) for axis in config.grid.values()], config.scales)
    if scales > MOST_SCALES:
        raise ConfigError(
            f"grid has {scales:,} scales, at most {MOST_SCALES:,} are possible; take fewer values, or "
            f"scales={ONE_AT_A_TIME}"
        )
    grids = [len(tuned.grid(f"space.{key}")) for key, tuned in config.space.items()]
    points, seeds = config.sampler.points or _number(grids, config.design), len(config.seed_list())
    if scales * points * seeds > MOST_TRIALS:
        raise ConfigError(
            f"the sweep has {scales * points * seeds:,} trials ({scales:,} scales x {points:,} points x {seeds:,} "
            f"seeds), at most {MOST_TRIALS:,} are possible; take fewer values, or design={ONE_AT_A_TIME}"
        )


def _number(counts: Sequence[int], design: str) -> int:
    """Return the number of combinations of values, from the number of each."""
    return 1 + sum(count - 1 for count in counts) if design == ONE_AT_A_TIME else math.prod(counts)


def _points(config: SweepConfig) -> tuple[Point, ...]:
    """Return the points that every scale tries, unless the sampler chooses."""
    grids = [tuned.grid(f"space.{key}") for key, tuned in config.space.items()]
    if config.design == ONE_AT_A_TIME:
        return tuple(one_at_a_time(grids, [tuned.middle(f"space.{key}") for key, tuned in config.space.items()]))
    return tuple(product(grids))


def _scales(config: SweepConfig, axes: Mapping[str, list[Number]]) -> tuple[Scale, ...]:
    """Return all combinations of the axes' values.

    Under one_at_a_time they are those with at most one axis off its center.
    """
    grids = [sorted(values) for values in axes.values()]
    combinations = product(grids)
    if config.scales == ONE_AT_A_TIME:
        combinations = one_at_a_time(grids, [_cast_to(config, key, config.grid[key].center) for key in axes])
    return tuple(Scale(dict(zip(axes, values, strict=True))) for values in combinations)


def _check_all(plan: Plan) -> None:
    """Raise ConfigError for the first scale that cannot be trained.

    The message names it unless all scales have the same problem.
    """
    problems = {scale: _problem(plan, scale) for scale in (*plan.scales, plan.target)}
    failing = {scale: problem for scale, problem in problems.items() if problem}
    if failing:
        scale, problem = next(iter(failing.items()))
        alike = len(failing) == len(problems) and len(set(failing.values())) == 1
        place = "target" if scale == plan.target and scale not in plan.scales else "grid"
        raise ConfigError(problem if alike else f"{place} at {scale.key}: {problem}")


def _problem(plan: Plan, scale: Scale) -> str | None:
    try:
        plan.runner.size(plan.run(scale))
        plan.runner.size(plan.run(scale, dict(zip(plan.tuned, plan.points[0], strict=True))))
    except ConfigError as error:
        return str(error)
    return None


def _cast(plan: Plan, key: str, value: Any) -> Number:
    return _cast_to(plan.config, key, value)


def _cast_to(config: SweepConfig, key: str, value: Any) -> Number:
    """Return the value in the type of its key.

    64.0 for a whole number becomes 64.
    """
    current = get_path({"run": config.run}, config.grid[key].path)
    if current is None:  # a name with the grid's values alone, and of their type
        current = config.grid[key].values[0]
    if isinstance(current, int) and not isinstance(current, bool):
        if value != int(value):
            raise ConfigError(f"grid.{key}: {config.grid[key].path} takes whole numbers, got {value}")
        return int(value)
    return value  # type: ignore[no-any-return]


def _set(tree: dict[str, Any], path: str, value: Any, place: str) -> dict[str, Any]:
    try:
        return with_path(tree, path, value)
    except ConfigError as error:
        raise ConfigError(f"{place}.path: {error}") from None
