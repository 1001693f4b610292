"""Coordinate checks: sizes of activations and of their changes over training steps.

Sources: the coordinate check of the mup package (arXiv:2203.03466, appendix D), the depth check of CompleteP
(arXiv:2505.01618).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from hptransfer.coordcheck.judgement import OUTPUTS, STREAM, Check
from hptransfer.coordcheck.measurements import Batch, MeasuredValues, by_trial, judge_run, measure_sizes, observe, rms
from hptransfer.coordcheck.recording import recorded
from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import layers_by_name, tagged
from hptransfer.training.models import MODELS
from hptransfer.training.stack import Stack


def coordinate_check(run: RunConfig, *, widths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Check that changes of module outputs do not scale with width.

    The numbers are root mean squares of every module's output at the start, and of its change since then after every
    training step. One batch is repeated. Only the changes are judged: a module whose change grows with width will blow
    up, one whose change shrinks will stop learning.
    """
    return scale_check(run, axis="width", sizes=widths, steps=steps, seeds=seeds)


def scale_check(run: RunConfig, *, axis: str, sizes: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Run the coordinate check along any integer setting of the model.

    A mixture's number of experts is an example.
    """

    def modules(stack: Stack) -> dict[str, nn.Module]:
        return {**layers_by_name(stack.model), **run.model.probe(stack.model)}

    return _check_activations(run, axis, sizes, steps, seeds, modules)


def depth_check(run: RunConfig, *, depths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Check that the residual stream's changes do not scale with depth.

    The stream is measured behind the last block, with the outputs, as in the coordinate check.

    Raises:
        ConfigError: the model has no residual branches.
    """
    if not run.model.residual:
        branched = " or ".join(name for name in MODELS.names() if MODELS.get(name).residual)
        raise ConfigError(
            f"check=depth: run/model={run.model.name} has no residual branches; take run/model={branched}"
        )
    check = _check_activations(run, "depth", depths, steps, seeds, lambda stack: {})
    if check.expected or run.branch_rule().alpha:
        return check
    return dataclasses.replace(
        check, expected="without a depth rule (run.branch.alpha) the stream grows with its blocks"
    )


def _check_activations(
    run: RunConfig,
    axis: str,
    sizes: Sequence[int],
    steps: int,
    seeds: int,
    modules_of: Callable[[Stack], dict[str, nn.Module]],
) -> Check:
    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        first: dict[str, Tensor] = {}
        values: dict[str, list[Tensor]] = {}
        for step in range(steps + 1):
            with _recorded(stack, modules_of(stack)) as outputs:
                # A training step's forward pass precedes its update; after the last update one pass is left.
                if step < steps:
                    stack.step(*batch, step)
                else:
                    observe(stack, batch)
            first = first or outputs
            for name, x in outputs.items():
                values.setdefault(name, []).append(rms(x - first[name] if step else x))
        return {name: torch.stack(columns) for name, columns in values.items()}

    measured = measure_sizes(run, axis, sizes, steps, seeds, measure)
    columns = ["start", *(f"change {step + 1}" for step in range(steps))]
    common = {name: values for name, values in measured.items() if len(values) == len(sizes)}
    return judge_run("activations", run, axis, sizes, columns, common, [False, *[True] * steps])


def _recorded(stack: Stack, modules: dict[str, nn.Module]) -> AbstractContextManager[dict[str, Tensor]]:
    """Record modules, the residual stream and the outputs, trials first.

    The stream is the input of the final norm.
    """
    trials = len(stack.alive)
    layouts = {**modules, OUTPUTS: stack.model}
    stream: dict[str, nn.Module] = {}
    if stack.residual:
        stream[STREAM] = stack.model.get_submodule("norm")
        layouts[STREAM] = [item.layer for item in tagged(stack.model) if item.inside][-1]
    return recorded(
        {**modules, OUTPUTS: stack.model}, inputs=stream, read=lambda name, x: by_trial(x, trials, layouts[name])
    )
