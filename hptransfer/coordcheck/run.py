"""Execution of one coordinate check by its name."""

from __future__ import annotations

from typing import Any

from hptransfer.coordcheck.checks import CHECKS
from hptransfer.coordcheck.settings import UNSTEPPED, axis_of
from hptransfer.worker.runners import RUNNERS


def run_check(config: Any) -> Any:
    """Run one check of `hptransfer coord-check` and return its result.

    Raises:
        ConfigError: the run breaks a rule, at one of the sizes.
    """
    from hptransfer.training.config import run_from_json

    RUNNERS.get(config.run["runner"])
    sizes = axis_of(config.check)
    steps = {} if config.check in UNSTEPPED else {"steps": config.steps}
    return CHECKS[config.check](
        run_from_json(config.run), **{sizes: getattr(config, sizes)}, **steps, seeds=config.seeds
    )
