"""Checked configuration of `hptransfer coord-check` from its overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hptransfer.config.compose import check_form, check_groups, compose_schema
from hptransfer.coordcheck.defaults import WHOLE_TRAININGS, default_overrides, refuse_unread
from hptransfer.core.errors import ConfigError, unknown


@dataclass(kw_only=True)
class CheckConfig:
    """Configuration of `hptransfer coord-check`: a run and its sizes."""

    check: str = "width"
    """width, depth, one-layer, spectral, alignment, wider or convergence."""
    widths: list[int] = field(default_factory=lambda: [128, 256, 512])
    """At least three."""
    depths: list[int] = field(default_factory=lambda: [4, 8, 16, 32])
    """Depths of check=depth; at least three."""
    steps: int = 3
    """Training steps, on one batch."""
    seeds: int = 8
    """Initializations to average over: small models differ by their first outputs alone."""
    run: Any = None


def own_settings(overrides: Sequence[str]) -> dict[str, str]:
    """Return the overrides that a check adds to the user's.

    They choose data that fits the model, and affordable sizes.
    """
    from hptransfer.training.config import RUN_FAMILIES

    from_user = dict(override.partition("=")[::2] for override in overrides)
    chosen = {"run/model": "mlp", "run/optimizer": "adamw", "run.parameterization": "mup", "check": "width"} | from_user
    takes = RUN_FAMILIES["model"].get(chosen["run/model"]).takes[-1]
    settings = {key: chosen[key] for key in ("run/model", "run/optimizer")} | {"run/data": DATA_FOR[takes]}
    family = (chosen[key] for key in ("check", "run/model", "run/optimizer", "run.parameterization"))
    settings |= default_overrides(*family, takes=takes)
    if "run.model.tied" in from_user:  # a readout that is the embedding cannot start at zero
        settings.pop("run.model.zero_readout", None)
    return {key: value for key, value in settings.items() if key not in from_user}


def compose_check(overrides: Sequence[str]) -> CheckConfig:
    """Return a check with its own settings and then the overrides applied.

    Raises:
        ConfigError: an unknown key or value, or one that breaks a rule.
    """
    check_form(overrides)
    check_groups(overrides)
    for override in overrides:
        if override.startswith("+run/"):
            raise ConfigError(f"override {override!r}: a check chooses one anyway; give it once, without a +")
    complete = [f"{key}={value}" for key, value in own_settings(overrides).items()] + list(overrides)
    choices = [override for override in complete if override.startswith("run/")]
    settings = [override for override in complete if not override.startswith("run/")]
    config = compose_schema(CheckConfig, "check", choices, settings)
    _check_check(config)
    refuse_unread(config.check, overrides)
    return config


# Data of a check, by the kind of data that the model takes.
DATA_FOR = {"tokens": "stdlib", "images": "digits", "features": "digits"}


def _check_check(config: CheckConfig) -> None:
    from hptransfer.coordcheck.run import COORD_CHECKS

    if config.check not in COORD_CHECKS:
        raise ConfigError(f"check: {unknown('check', config.check, COORD_CHECKS)}")
    for key in ("widths", "depths"):
        sizes = getattr(config, key)
        if len(set(sizes)) < 3 or min(sizes) < 1:
            raise ConfigError(f"{key} must be at least three different numbers above 0, got {sizes}")
    for key in ("steps", "seeds"):
        if getattr(config, key) < 1:
            raise ConfigError(f"{key} must be at least 1, got {getattr(config, key)}")
    if config.check in WHOLE_TRAININGS and config.seeds < 2:
        raise ConfigError(f"seeds must be at least 2 for check={config.check}, which compares them, got {config.seeds}")
