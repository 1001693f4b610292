"""Registry of the checks of `hptransfer coord-check`, by name."""

from __future__ import annotations

from collections.abc import Callable

from hptransfer.coordcheck.activations import coordinate_check, depth_check
from hptransfer.coordcheck.judgement import Check
from hptransfer.coordcheck.layer_updates import alignment_check, one_layer_check, spectral_check
from hptransfer.coordcheck.whole_training import convergence_check, wider_check

CHECKS: dict[str, Callable[..., Check]] = {
    "width": coordinate_check,
    "depth": depth_check,
    "one-layer": one_layer_check,
    "spectral": spectral_check,
    "alignment": alignment_check,
    "wider": wider_check,
    "convergence": convergence_check,
}
