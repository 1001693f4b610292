"""Failures and slopes that theory expects of a parameterization."""

from __future__ import annotations

import torch

from hptransfer.parameterizations import Parameterization, Role
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import Embedding, layers_by_name


def slower_by_intent(run: RunConfig) -> dict[str, float]:
    """Return slopes over width that the parameterization intends, by layer name.

    They come from learning rates that fall with width by intent. Layers that are not named have slope 0.
    """
    if run.table.lookup is None:
        return {}
    with torch.device("meta"):
        model = run.model.build(trials=1, shape=run.shape)
    slope = run.table.lookup.total
    return {name: slope for name, layer in layers_by_name(model).items() if isinstance(layer, Embedding)}


def expected_failure(run: RunConfig) -> str:
    """Return why theory expects a run's parameterization to fail.

    It is empty if the run should pass.
    """
    readout = run.table.rows[Role.OUTPUT]
    one_rate = run.table.global_rate and run.alignment == "default"
    if one_rate or readout.a + readout.b > 0.5 or not run.model.zero_readout:
        return theory(run.parameterization, run.table, run.alignment)
    if run.optimizer.law(Role.HIDDEN).gradient:
        return f"{run.parameterization}'s rates count on the gradient that its readout's first values would let through"
    return ""


def theory(name: str, table: Parameterization, alignment: object) -> str:
    """Return why models are expected to fail under a parameterization.

    It is empty if they should pass.
    """
    if table.global_rate and alignment == "default":
        return f"{name} has one learning rate for all: its updates do not keep their size over width"
    readout = table.rows[Role.OUTPUT]
    if readout.a + readout.b == 0.5:
        return f"{name}'s readout is n^1/2 too large for features that move: the outputs' change grows"
    return ""
