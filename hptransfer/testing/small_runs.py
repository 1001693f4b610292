"""Small runs of the builtin trainer and their first losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hptransfer.training.config import Base, Constants, RoleConstants, RunConfig
from hptransfer.training.datasets import FEATURES, IMAGES, TOKENS, Dataset, DataShape
from hptransfer.training.datasets.digits import DigitsConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.models import MODELS, ModelConfig
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers import OptimizerConfig
from hptransfer.training.optimizers.adamw import AdamWConfig
from hptransfer.training.schedules import Schedule
from hptransfer.training.stack import Stack

DATA_SHAPES = {
    TOKENS: DataShape(kind=TOKENS, inputs=(24,), vocabulary=50, outputs=50),
    IMAGES: DataShape(kind=IMAGES, inputs=(3, 8, 8), outputs=7),
    FEATURES: DataShape(kind=FEATURES, inputs=(20,), outputs=7),
}
COMPARED_STEPS = 12
"""Steps after which numbers that depend on the other trials of a stack differ."""


def small_run(*, lr: float = 2.0**-6, width: int = 32, depth: int = 2, **changes: Any) -> RunConfig:
    """Return a run of 64 steps of a small transformer on text.

    Args:
        changes: fields of RunConfig.
    """
    run = RunConfig(
        base=Base(width=32),
        tokens=4096,
        batch=2,
        sequence=32,
        validation_windows=16,
        model=TransformerConfig(width=width, depth=depth, head_dim=16),
        optimizer=AdamWConfig(lr=lr, weight_decay=0.1),
        data=StdlibConfig(),
    )
    return dataclasses.replace(run, **changes)


def run_of_model(name: str, *, width: int = 32, depth: int = 2, lr: float = 2.0**-6, **options: Any) -> RunConfig:
    """Return a small run of a model on data that it accepts.

    Args:
        options: settings of the model.
    """
    model: ModelConfig = MODELS.get(name)(name=name, width=width, depth=depth, **options)
    if TOKENS in model.takes:
        return small_run(lr=lr, model=model)
    if name == "resnet":
        model = dataclasses.replace(model, width=width // 2)  # its width is counted in channels
    return small_run(
        lr=lr, model=model, data=DigitsConfig(), sequence=1, batch=32, tokens=32 * 60, validation_windows=64
    )


# Settings in which the trials of one stack may differ, if their optimizer has them.
OWN_SETTINGS: dict[str, tuple[float, float, float]] = {
    "weight_decay": (0.0, 0.3, 0.1),
    "beta1": (0.9, 0.8, 0.95),
    "beta2": (0.95, 0.99, 0.9),
    "eps": (1e-8, 1e-6, 1e-5),
    "momentum": (0.9, 0.8, 0.95),
    "floor": (1e-3, 1e-2, 1e-4),
    "damping": (1e-2, 3e-2, 1e-1),
}


def differing_runs(run: RunConfig, optimizer: OptimizerConfig) -> list[RunConfig]:
    """Return three runs that differ in all that one stack allows.

    Args:
        optimizer: that of the first run, except for `OWN_SETTINGS`; the others have half and a quarter of its rate.
    """
    names = {field.name for field in dataclasses.fields(optimizer)}
    runs = []
    for index in range(3):
        own_settings: dict[str, Any] = {key: values[index] for key, values in OWN_SETTINGS.items() if key in names}
        changed = dataclasses.replace(optimizer, lr=optimizer.lr * (1.0, 0.5, 0.25)[index], **own_settings)
        constants = RoleConstants(
            hidden=Constants(multiplier=(1.0, 0.5, 0.75)[index], init=(1.0, 1.5, 0.5)[index]),
            output=Constants(lr=(1.0, 0.5, 0.25)[index]),
        )
        branch = dataclasses.replace(run.branch, multiplier=(1.0, 0.8, 1.2)[index])
        schedule = Schedule(warmup=(0.1, 0.2, 0.05)[index], end=(0.0, 0.2, 0.1)[index], floor=(0.0, 0.0, 1e-4)[index])
        runs.append(dataclasses.replace(run, optimizer=changed, constants=constants, branch=branch, schedule=schedule))
    return runs


def batches(run: RunConfig, data: Dataset, steps: int = COMPARED_STEPS) -> list[tuple[Tensor, Tensor]]:
    """Return inputs and targets of a run's first steps, by seed 0."""
    return [data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence) for step in range(steps)]


def first_losses(
    runs: Sequence[RunConfig],
    seeds: Sequence[int],
    data: Dataset,
    dtype: torch.dtype = torch.float64,
    steps: int = COMPARED_STEPS,
) -> Tensor:
    """Return a stack's losses in its first steps, (steps, trials)."""
    stack = Stack(runs, seeds, device="cpu", dtype=dtype)
    return torch.stack([stack.step(*batch, step) for step, batch in enumerate(batches(runs[0], data, steps))])


def assert_stack_equals_trials(
    runs: Sequence[RunConfig],
    seeds: Sequence[int],
    *,
    rtol: float = 1e-10,
    dtype: torch.dtype = torch.float64,
    steps: int = COMPARED_STEPS,
) -> None:
    """Assert that trials have the same losses in a stack as alone.

    Losses are compared, not weights: weights whose gradient is nothing but rounding (key biases) drift under an
    optimizer that takes signs. In float64 the only difference is the order of summation in a batched matrix multiply.
    As a control, the trials must differ from each other.
    """
    data = runs[0].data.load()
    together = first_losses(runs, seeds, data, dtype, steps)
    separate = [first_losses([run], [seed], data, dtype, steps) for run, seed in zip(runs, seeds, strict=True)]
    alone = torch.cat(separate, dim=1)
    torch.testing.assert_close(together, alone, rtol=rtol, atol=0)
    for second in range(1, len(runs)):
        for first in range(second):
            gap = (alone[-10:, first] - alone[-10:, second]).abs().max().item()  # two curves may cross once
            assert gap > 100 * rtol, f"trials {first} and {second} must differ for the comparison to show anything"


def assert_leaving_changes_nothing(
    runs: Sequence[RunConfig], *, rtol: float = 1e-9, steps: int = COMPARED_STEPS
) -> None:
    """Assert that the last trial keeps its losses after the others left.

    Without the optimizer's memory the next losses would differ by far more than rounding.
    """
    data, half = runs[0].data.load(), steps // 2
    seeds, last = [0] * len(runs), len(runs) - 1
    data_batches = batches(runs[0], data, steps)
    full_stack, cut_stack = (Stack(runs, seeds, device="cpu", dtype=torch.float64) for _ in range(2))
    for step in range(half):
        full_stack.step(*data_batches[step], step)
        cut_stack.step(*data_batches[step], step)
    cut_stack.keep([last])
    assert cut_stack.alive == [last], f"after keep([{last}]) trial {last} must be alive, got {cut_stack.alive}"
    expected = torch.stack([full_stack.step(*data_batches[step], step)[last] for step in range(half, steps)])
    losses = torch.stack([cut_stack.step(*data_batches[step], step)[0] for step in range(half, steps)])
    torch.testing.assert_close(losses, expected, rtol=rtol, atol=0)
