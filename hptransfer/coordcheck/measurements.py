"""Training of a builtin model at several sizes, with measurements.

Every check trains the model at several widths (or depths) for a few steps on one batch. It fits the slope of log2 of a
measured number against log2 of the size, which is zero under a parameterization that transfers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from hptransfer.coordcheck.judgement import LOG_FLOOR, LOOSE, TIGHT, WIDE, Check, judge
from hptransfer.coordcheck.theory import expected_failure, slower_by_intent
from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import Conv2d
from hptransfer.training.stack import Stack

# Parameters of a stack of seeds, at most: larger stacks are not faster.
MAX_STACK_PARAMS = 1_000_000

Batch = tuple[Tensor, Tensor]
MeasuredValues = dict[str, Tensor]
"""Numbers of a stack by name, (columns, trials)."""


def at_size(run: RunConfig, axis: str, size: int) -> RunConfig:
    """Return the run at another width or depth.

    Raises:
        ConfigError: the model cannot have that size.
    """
    resized = dataclasses.replace(run, model=dataclasses.replace(run.model, **{axis: size}))
    try:
        resized.check()
    except ConfigError as error:
        raise ConfigError(f"at {axis} {size}: {error}") from None
    return resized


def without_warmup(run: RunConfig, steps: int) -> RunConfig:
    """Return the run at its peak rate throughout, `steps` steps long."""
    schedule = dataclasses.replace(run.schedule, shape="constant", warmup=0.0)
    return dataclasses.replace(run, schedule=schedule, tokens=max(steps, 1) * run.tokens_a_step)


def stacks(run: RunConfig, seeds: int) -> Iterator[Stack]:
    """Yield seeds 0, 1, ... in stacks of limited size.

    A stack has at most MAX_STACK_PARAMS parameters, or a single trial.
    """
    most = max(1, MAX_STACK_PARAMS // run.model.num_params(run.shape))
    for start in range(0, seeds, most):
        members = range(start, min(start + most, seeds))
        yield Stack([run] * len(members), members, device="cpu")


def measure_sizes(
    run: RunConfig,
    axis: str,
    sizes: Sequence[int],
    steps: int,
    seeds: int,
    measure: Callable[[Stack, Batch], MeasuredValues],
) -> dict[str, list[list[float]]]:
    """Return measured numbers by name, size and column: means over seeds.

    Seeds train as stacks: small models cost more to call than to compute.
    """
    measured: dict[str, list[list[float]]] = {}
    for size in sizes:
        resized = without_warmup(at_size(run, axis, size), steps)
        data = resized.data.load()
        batch = data.batch(seed=resized.data_seed, step=0, batch=resized.batch, sequence=resized.sequence)
        parts = []
        for stack in stacks(resized, seeds):
            resized.model.probe(stack.model)
            parts.append(measure(stack, batch))
        for name in parts[0]:
            measured.setdefault(name, []).append(_mean(torch.cat([part[name] for part in parts], dim=1)))
    return measured


def judge_run(
    what: str,
    run: RunConfig,
    axis: str,
    sizes: Sequence[int],
    columns: list[str],
    measured: dict[str, list[list[float]]],
    judged: list[bool],
) -> Check:
    """Judge a run's numbers by the tolerance of its model."""
    tight = axis == "width" and run.model.name == "mlp" and min(sizes) >= WIDE
    tolerance = TIGHT if tight else LOOSE
    expected = expected_failure(run)
    wanted = slower_by_intent(run) if axis == "width" else {}
    return judge(
        what, axis, sizes, columns, measured, judged, tolerance=tolerance, expected=expected, prescribed=wanted
    )


@torch.no_grad()
def observe(stack: Stack, batch: Batch) -> None:
    """Run one forward pass without an update."""
    stack.losses(*batch)


def by_trial(x: Tensor, trials: int, layer: nn.Module) -> Tensor:
    """Return a layer's input or output with trials along the first axis.

    A convolution has its trials in the channels.
    """
    return x.view(len(x), trials, -1, *x.shape[2:]).transpose(0, 1) if isinstance(layer, Conv2d) else x


def rms(x_K: Tensor) -> Tensor:
    """Return root mean squares, trial by trial."""
    x_KN = x_K.flatten(1)
    means_K: Tensor = torch.linalg.vector_norm(x_KN, dim=1, dtype=torch.float64) / x_KN.shape[1] ** 0.5
    return means_K


def _mean(values: Tensor) -> list[float]:
    """Return geometric means over the last axis, seeds: slopes are of logarithms."""
    means: list[float] = values.double().clamp_min(LOG_FLOOR).log().mean(dim=-1).exp().tolist()
    return means
