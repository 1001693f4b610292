"""From a sweep's configuration to scales, trials and their cost. Starts nothing."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from hptransfer.config.sweep import ONE_AT_A_TIME, SweepConfig
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import DONE, SWEEP, Job, Number, Scale, Trial, digest, get_path, trial_id, with_path
from hptransfer.planning.search_space import Point, one_at_a_time, product
from hptransfer.worker.runners import RUNNERS, Runner, Size


@dataclass(frozen=True)
class Plan:
    """A checked sweep: every scale and the target can be trained as configured."""

    config: SweepConfig
    runner: Runner
    scales: tuple[Scale, ...]
    target: Scale
    settings: tuple[Point, ...]
    seeds: tuple[int, ...]
    fingerprint: str

    @property
    def tuned(self) -> tuple[str, ...]:
        """Keys of the tuned hyperparameters."""
        return tuple(self.config.space)

    @cached_property
    def grids(self) -> dict[str, list[float]]:
        """Values of each tuned hyperparameter, ascending."""
        return {key: tuned.grid(f"space.{key}") for key, tuned in self.config.space.items()}

    @cached_property
    def sizes(self) -> dict[Scale, Size]:
        """Cost of one trial at every scale and at the target."""
        return {scale: self.runner.size(self.run(scale)) for scale in (*self.scales, self.target)}

    @property
    def points(self) -> int:
        """Settings that every scale tries, before any extension."""
        return self.config.sampler.points or len(self.settings)

    def num_trials(self, scale: Scale) -> int:
        return self.points * len(self.seeds) if scale in self.scales else 0

    def job_size(self, run: Mapping[str, Any]) -> int:
        """Trials of a run's shape that one job carries, at most."""
        return self.runner.job_size(run, gpu=self.config.launcher.has_gpu(self.runner.gpus()))

    def flops(self) -> float:
        """Training FLOPs of the whole sweep, before any extension."""
        return sum(self.num_trials(scale) * self.sizes[scale].flops for scale in self.scales)

    def run(self, scale: Scale, tuned: Mapping[str, float] | None = None) -> dict[str, Any]:
        """The resolved configuration of one run."""
        tree: dict[str, Any] = {"run": self.config.run}
        for key, value in scale.axes.items():
            tree = _set(tree, self.config.grid[key].path, value, f"grid.{key}")
        for key, value in (tuned or {}).items():
            place = self.config.space[key]
            tree = _set(tree, place.path, 1 - value if place.one_minus else value, f"space.{key}")
        return dict(tree["run"])

    def trial(self, scale: Scale, tuned: Mapping[str, float], seed: int, purpose: str = SWEEP) -> Trial:
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
        """The target with some axes set otherwise, checked.

        Raises:
            ConfigError: the run cannot be trained at that scale.
        """
        scale = Scale({key: _cast(self, key, axes.get(key, value)) for key, value in self.target.axes.items()})
        if problem := _problem(self, scale):
            raise ConfigError(f"{scale.name}: {problem}")
        return scale

    def target_json(self, target: Scale | None = None) -> dict[str, Any]:
        """What analyze, report and export know of the sweep and its target (target.json), or of another one."""
        target = target or self.target
        run = self.run(target)
        size = self.runner.size(run)
        return {
            "name": self.config.name,
            "scales": list(self.config.grid),
            "tuned": {key: tuned.path for key, tuned in self.config.space.items()},
            "complement": [key for key, tuned in self.config.space.items() if tuned.one_minus],
            "target": dict(target.axes),
            "params": size.params,
            "flops": size.flops,
            **self.runner.groups(run),
            "estimator": self.config.estimator,
            "laws": self.config.laws,
            "parameterization": self.config.run.get("parameterization"),
            "fingerprint": self.fingerprint,
            "run": run,
        }


def seconds_by_scale(plan: Plan) -> dict[Scale, float | None]:
    """Estimated seconds of one trial at every scale and at the target, by a few measured steps.

    A shape whose steps are too long to measure in passing is taken to be as fast as the largest
    one that was measured. A script is as fast as its trials were that the run folder has; None if there are none.
    """
    threads = plan.config.launcher.num_threads()
    rates: dict[str, float | None] = {}
    rate: float | None = None
    seconds: dict[Scale, float | None] = {}
    for scale in sorted((*plan.scales, plan.target), key=lambda scale: plan.sizes[scale].params):
        run = plan.run(scale)
        shape = digest([run.get("model"), run.get("batch"), run.get("sequence")])
        if shape not in rates:
            rates[shape] = plan.runner.flops_rate(run, threads) or rate
        rate = rates[shape]
        seconds[scale] = plan.sizes[scale].flops / rate if rate else None
    return seconds if rate else _seen_seconds(plan)


def _seen_seconds(plan: Plan) -> dict[Scale, float | None]:
    """Seconds of finished trials of the same scale, or by the FLOPs of those of the largest scale that has some."""
    seen: dict[Scale, list[float]] = {}
    rates: list[tuple[float, float]] = []
    for trial in plan.config.folder.read_trials():
        outcome = plan.config.folder.read_outcome(trial.id)
        if outcome and outcome.state == DONE and outcome.seconds > 0:
            seen.setdefault(trial.scale, []).append(outcome.seconds)
            rates.append((trial.flops, trial.flops / outcome.seconds))
    rate = max(rates)[1] if rates else None
    scales = (*plan.scales, plan.target)
    guesses = {scale: plan.sizes[scale].flops / rate if rate else None for scale in scales}
    return guesses | {scale: fmean(seen[scale]) for scale in scales if scale in seen}


def make_plan(config: SweepConfig) -> Plan:
    """
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
        if isinstance(current, int | str):  # a truth, too
            raise ConfigError(
                f"space.{key}.path: {tuned.path} is {current!r}, which has no values in between; make it an axis of "
                "the grid, or set it for all trials"
            )
    axes = {key: [_cast_to(config, key, value) for value in axis.values] for key, axis in config.grid.items()}
    scales = _scales(config, axes)
    target = Scale({key: _cast_to(config, key, config.target.get(key, max(axes[key]))) for key in axes})
    plan = Plan(
        config=config,
        runner=runner,
        scales=scales,
        target=target,
        settings=_settings(config),
        seeds=tuple(config.seed_list()),
        fingerprint="",
    )
    _check_all(plan)
    swept = [part.path.rpartition(".")[2] for parts in (config.grid, config.space) for part in parts.values()]
    runner.check_swept(plan.run(target), [*swept, *(["seed"] if len(plan.seeds) > 1 else [])])
    for key, values in axes.items():
        if len(values) == 1 and target.axes[key] != values[0]:
            raise ConfigError(
                f"target.{key} is {target.axes[key]}, but grid.{key}.values has {values[0]} alone: no law can say how "
                f"the optimum moves with {key}; give the grid two values of it, or set target.{key}={values[0]}"
            )
    config.launcher.check_jobs(job for scale in scales for job in itertools.islice(jobs_of(plan, scale), 1))
    return dataclasses.replace(plan, fingerprint=runner.fingerprint(plan.run(target)))


def jobs_of(plan: Plan, scale: Scale) -> Iterator[tuple[Job, Number | None]]:
    """The jobs of one scale, as large as they may be, and the tokens of a trial; their ids and trials are stand-ins."""
    left, most = plan.num_trials(scale), plan.job_size(plan.run(scale))
    while left > 0:
        count = min(left, most)
        left -= count
        yield _stand_in(plan, scale, count, left)


def _stand_in(plan: Plan, scale: Scale, count: int, number: int) -> tuple[Job, Number | None]:
    """A job of so many trials, and the tokens of one."""
    run = plan.run(scale)
    size, tokens = plan.sizes.get(scale) or plan.runner.size(run), run.get("tokens")
    job = Job(
        id=f"{scale.name.replace('=', '').replace(',', '-')}-{number}",
        trials=[""] * count,
        scale=scale,
        params=size.params,
        flops=count * size.flops,
    )
    return job, tokens if isinstance(tokens, Number) else None


def num_devices(plan: Plan, scale: Scale) -> int:
    """Devices that a trial of a scale holds while it trains."""
    found: int = plan.config.launcher.num_devices(*_stand_in(plan, scale, 1, 0), plan.runner.gpus())
    return found


def _settings(config: SweepConfig) -> tuple[Point, ...]:
    """What every scale tries, unless the sampler chooses."""
    grids = [tuned.grid(f"space.{key}") for key, tuned in config.space.items()]
    if config.design == ONE_AT_A_TIME:
        return tuple(one_at_a_time(grids, [tuned.middle(f"space.{key}") for key, tuned in config.space.items()]))
    return tuple(product(grids))


def _scales(config: SweepConfig, axes: Mapping[str, list[Number]]) -> tuple[Scale, ...]:
    """Every combination of the axes' values; or those in which one axis at most is off its center."""
    product = itertools.product(*map(sorted, axes.values()))
    found = [dict(zip(axes, values, strict=True)) for values in product]
    if config.scales == ONE_AT_A_TIME:
        centers = {key: _cast_to(config, key, config.grid[key].center) for key in axes}
        found = [scale for scale in found if sum(scale[key] != centers[key] for key in axes) <= 1]
    return tuple(map(Scale, found))


def _check_all(plan: Plan) -> None:
    """Raises ConfigError for the first scale that cannot be trained; names it unless all are alike."""
    problems = {scale: _problem(plan, scale) for scale in (*plan.scales, plan.target)}
    bad = {scale: problem for scale, problem in problems.items() if problem}
    if bad:
        scale, problem = next(iter(bad.items()))
        alike = len(bad) == len(problems) and len(set(bad.values())) == 1
        place = "target" if scale == plan.target and scale not in plan.scales else "grid"
        raise ConfigError(problem if alike else f"{place} at {scale.name}: {problem}")


def _problem(plan: Plan, scale: Scale) -> str | None:
    try:
        plan.runner.size(plan.run(scale))
        plan.runner.size(plan.run(scale, dict(zip(plan.tuned, plan.settings[0], strict=True))))
    except ConfigError as error:
        return str(error)
    return None


def _cast(plan: Plan, key: str, value: Any) -> Number:
    return _cast_to(plan.config, key, value)


def _cast_to(config: SweepConfig, key: str, value: Any) -> Number:
    """The value as the configuration holds it: 64.0 for a whole number becomes 64."""
    current = get_path({"run": config.run}, config.grid[key].path)
    if current is None:  # a name that has no value but the grid's, and is of their kind
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


def identity(config: SweepConfig, fingerprint: str) -> dict[str, Any]:
    """What changes the numbers of a trial that a run already has, as flat keys."""
    swept = {axis.path for axis in config.grid.values()} | {tuned.path for tuned in config.space.values()}
    runner = RUNNERS.get(config.run["runner"])
    decisive = runner.identity_settings(config.run)
    flat = {path: value for path, value in _flatten("run", decisive) if path not in swept}
    flat |= {f"grid.{key}": axis.path for key, axis in config.grid.items()}
    flat |= {
        f"space.{key}": f"1 - {tuned.path}" if tuned.one_minus else tuned.path for key, tuned in config.space.items()
    }
    return {**flat, runner.fingerprint_source(config.run): fingerprint}


def _flatten(prefix: str, node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [leaf for key, value in node.items() for leaf in _flatten(f"{prefix}.{key}", value)]
    return [(prefix, node)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ, with both values."""
    keys = sorted({*old, *new})
    return [f"{key} is {old.get(key)} there, {new.get(key)} here" for key in keys if old.get(key) != new.get(key)]
