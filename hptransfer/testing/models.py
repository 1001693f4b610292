"""Contract kit of the models: sizes, roles, training, stacks.

A model outside the tree passes `check(name)` for each of `CHECKS`, and `check(name, option=value)` for each of its
options.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.testing._asserting import assert_near
from hptransfer.testing.small_runs import (
    DATA_SHAPES,
    assert_leaving_changes_nothing,
    assert_stack_equals_trials,
    batches,
    differing_runs,
    run_of_model,
)
from hptransfer.training.datasets import TOKENS, DataShape
from hptransfer.training.layers import tagged
from hptransfer.training.loop import train
from hptransfer.training.optimizers.adamw import AdamWConfig
from hptransfer.training.stack import Stack

SIZES = ((32, 2), (64, 4))
"""Widths and depths at which sizes are counted."""


def check_sizes(name: str, **options: Any) -> None:
    """Check that parameters and FLOPs are those of the formulas.

    FLOPs are those of a forward and backward pass, as PyTorch counts them.
    """
    for width, depth in SIZES:
        run = run_of_model(name, width=width, depth=depth, **options)
        for kind in run.model.takes:
            shape, where = DATA_SHAPES[kind], f"{name} on {kind}, width {width}, depth {depth}"
            model = run.model.build(trials=1, shape=shape).double()  # experts' products are counted in this type alone
            counted = sum(weight.numel() for weight in model.parameters())
            assert counted == run.model.num_params(shape), f"{where}: num_params must be {counted}"
            for weight in model.parameters():
                torch.nn.init.normal_(weight)
            # The counter knows attention only as the matrix products that it is made of.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                model(_inputs(shape, 3)).sum().backward()
            flops = 3 * run.model.flops(shape)
            assert_near(flops, counter.get_total_flops(), relative=1e-9, of=f"{where}: FLOPs of three examples")


def _inputs(shape: DataShape, count: int) -> Tensor:
    if shape.kind == TOKENS:
        return torch.randint(shape.vocabulary, (count, shape.sequence))
    return torch.randn(count, *shape.inputs).double()


def check_roles(name: str, **options: Any) -> None:
    """Check that every parameter has a role."""
    run = run_of_model(name, **options)
    model = run.model.build(trials=2, shape=run.shape)
    count = len(list(model.parameters()))
    assert len(list(tagged(model))) == count, f"{name}: each of its {count} parameters needs a layer with a role"


def check_loss_falls(name: str, lr: float = 2.0**-6, **options: Any) -> None:
    """Check that AdamW lowers the held-out loss by 0.4 nats."""
    run = run_of_model(name, lr=lr, **options)
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None and result.initial_loss is not None, f"{name} must not diverge"  # noqa: PT018
    assert result.loss < result.initial_loss - 0.4, (
        f"{name}: the loss must fall from {result.initial_loss:.3f} by 0.4, got {result.loss:.3f}"
    )


def check_stacking(name: str, rate: float = 1.0, **options: Any) -> None:
    """Check that a stack leaves each trial the losses it has alone.

    Args:
        rate: factor on AdamW's default rate, for a model that is chaotic at it.
    """
    run, optimizer = run_of_model(name, **options), AdamWConfig()
    runs = differing_runs(run, dataclasses.replace(optimizer, lr=rate * optimizer.lr))
    assert_stack_equals_trials(runs, [0, 1, 2])


def check_leaving(name: str, **options: Any) -> None:
    """Check that a trial that leaves a stack changes no other one."""
    assert_leaving_changes_nothing([run_of_model(name, lr=lr, **options) for lr in (2.0**-6, 2.0**-5)])


def check_constants(name: str, **options: Any) -> None:
    """Check that each trial of a stack has its own constants.

    Those are multipliers, initial spreads and branch factors.
    """
    runs = [run_of_model(name, **options) for _ in range(2)]
    runs[1].constants.output.multiplier = 3.0
    runs[1].constants.hidden.init = 0.5
    runs[1].branch.multiplier = 0.25
    (batch,) = batches(runs[0], runs[0].data.load(), 1)
    stack = Stack(runs, [0, 0], device="cpu", dtype=torch.float64)
    together = [stack.step(*batch, step) for step in range(3)][-1].tolist()
    for trial, run in enumerate(runs):
        alone = Stack([run], [0], device="cpu", dtype=torch.float64)
        loss = [alone.step(*batch, step).item() for step in range(3)][-1]
        assert_near(together[trial], loss, relative=1e-10, of=f"{name}: loss of trial {trial} in a stack")
    assert abs(together[0] / together[1] - 1) > 1e-6, f"{name}: constants must change the loss"


CHECKS = (check_sizes, check_roles, check_loss_falls, check_stacking, check_leaving, check_constants)
