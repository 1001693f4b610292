"""Checks of `hptransfer coord-check` by name, and their execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hptransfer.coordcheck.activations import coordinate_check, depth_check
from hptransfer.coordcheck.defaults import WITHOUT_STEPS, axis_of
from hptransfer.coordcheck.judgement import Check
from hptransfer.coordcheck.layer_updates import alignment_check, one_layer_check, spectral_check
from hptransfer.coordcheck.whole_training import convergence_check, wider_check
from hptransfer.worker.runners import RUNNERS

COORD_CHECKS: dict[str, Callable[..., Check]] = {
    "width": coordinate_check,
    "depth": depth_check,
    "one-layer": one_layer_check,
    "spectral": spectral_check,
    "alignment": alignment_check,
    "wider": wider_check,
    "convergence": convergence_check,
}


def run_check(config: Any) -> Check:
    """Run one check of `hptransfer coord-check` and return its result.

    Raises:
        ConfigError: the run breaks a rule, at one of the sizes.
    """
    from hptransfer.training.config import run_from_json

    RUNNERS.get(config.run["runner"])
    sizes = axis_of(config.check)
    steps = {} if config.check in WITHOUT_STEPS else {"steps": config.steps}
    return COORD_CHECKS[config.check](
        run_from_json(config.run), **{sizes: getattr(config, sizes)}, **steps, seeds=config.seeds
    )
