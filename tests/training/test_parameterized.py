"""muP keeps updates at their size as width grows; SP does not."""

import numpy as np
import pytest
import torch

from hptransfer.training.config import Base
from hptransfer.training.groups import base_and_factors
from hptransfer.training.loop import Stack
from hptransfer.training.models.transformer import TransformerConfig
from tests.training.settings import small

WIDTHS = (128, 256, 512)


def logit_change_slope(parameterization: str) -> float:
    """Slope of log2 RMS of the logits' change over three steps against log2 width (coordinate check)."""
    data = small().data.load()
    inputs, targets = data.batch(seed=0, step=0, batch=4, sequence=32)
    changes = []
    for width in WIDTHS:
        run = small(parameterization=parameterization, lr=2.0**-6, base=Base(width=64))
        run.model = TransformerConfig(width=width, depth=2)
        stack = Stack([run] * 3, [0, 1, 2], vocabulary=256, device="cpu")
        with torch.no_grad():
            before = stack.model(inputs)
        for _ in range(3):
            stack.step(inputs, targets, 1.0)
        with torch.no_grad():
            changes.append((stack.model(inputs) - before).square().mean().sqrt().item())
    return float(np.polyfit(np.log2(WIDTHS), np.log2(changes), 1)[0])


def test_mup_logit_updates_keep_their_size_as_width_grows() -> None:
    assert abs(logit_change_slope("mup")) < 0.2


def test_sp_logit_updates_grow_with_width() -> None:
    assert logit_change_slope("sp") > 0.3


def test_initial_weights_have_the_tables_spread() -> None:
    run = small(width=128)  # four times the base
    stack = Stack([run], [0], vocabulary=256, device="cpu")
    stds = {name: weight.std().item() for name, weight in stack.model.named_parameters()}
    assert stds["blocks.0.mlp.up.weight"] == pytest.approx(128**-0.5, rel=0.02)
    assert stds["tokens.weight"] == pytest.approx(1, rel=0.02)
    assert stds["readout.weight"] == pytest.approx(32**-0.5, rel=0.02)
    assert stack.model.readout.multiplier == 1 / 4


def test_exported_factors_are_those_that_train() -> None:
    run = small(width=128)
    described = base_and_factors(run)
    stack = Stack([run], [0], vocabulary=256, device="cpu")
    trained = {(g["lr"], g["eps"], round(g["weight_decay"], 9)) for g in stack.optimizer.param_groups}
    base = described["base"]
    exported = {
        tuple(round(base[key] * group[key], 9) if key == "weight_decay" else base[key] * group[key] for key in base)
        for group in described["groups"].values()
    }
    assert trained == exported
