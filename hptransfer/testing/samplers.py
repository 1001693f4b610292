"""Contract kit of the samplers: values in range, repeatable by seed."""

from __future__ import annotations

import dataclasses
from typing import Any

from hptransfer.core.errors import ConfigError
from hptransfer.samplers import SamplerConfig
from hptransfer.testing._asserting import assert_refused

LOW, HIGH = 2.0**-8, 2.0**-4
COUNT = 6


def suggested(config: SamplerConfig, seed: int) -> list[float]:
    """Return the values that a new study suggests, each with a loss."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(sampler=config.build(seed))
        values = []
        for _ in range(COUNT):
            trial = study.ask()
            values.append(trial.suggest_float("lr", LOW, HIGH, log=True))
            study.tell(trial, 3.0 + abs(values[-1] - 0.02))
    finally:
        optuna.logging.set_verbosity(level)
    return values


def check_values(config: SamplerConfig) -> None:
    """Check that values lie in the range and depend on the seed."""
    values = suggested(config, 1)
    assert all(LOW <= value <= HIGH for value in values), f"{config.name}: {values} must lie in [{LOW}, {HIGH}]"
    assert len(set(values)) > 1, f"{config.name}: values must differ, got {values}"
    assert suggested(config, 1) == values, f"{config.name}: the same seed must give the same values"
    assert suggested(config, 2) != values, f"{config.name}: another seed must give other values"


def check_points(config: SamplerConfig) -> None:
    """Check that the number of values is None or enough to bracket.

    A setting `trials` below 3 must be refused.
    """
    config.check("sampler")
    assert config.points is None or config.points >= 3, f"{config.name}: points must be None or at least 3"
    if "trials" in {field.name for field in dataclasses.fields(config)}:
        few_trials: dict[str, Any] = {"trials": 2}
        too_few = dataclasses.replace(config, **few_trials)
        assert_refused(lambda: too_few.check("sampler"), r"sampler\.trials must be at least 3", ConfigError)


CHECKS = (check_values, check_points)
