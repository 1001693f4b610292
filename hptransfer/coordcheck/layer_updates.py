"""Checks of single layers' updates: change of the output, alignment, spectral norm.

Sources: alignment ratios (arXiv:2407.05872), the spectral condition (arXiv:2310.17813).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hptransfer.coordcheck.judgement import Check
from hptransfer.coordcheck.measurements import Batch, MeasuredValues, by_trial, judge_run, measure_sizes, observe, rms
from hptransfer.coordcheck.recording import recorded
from hptransfer.parameterizations import MATRICES, Role
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import Layer, layers_by_name, scale_fwd
from hptransfer.training.stack import Stack


def one_layer_check(run: RunConfig, *, widths: Sequence[int], steps: int = 1, seeds: int = 8) -> Check:
    """Check that a layer's own update acts equally at all widths.

    The output is that for the layer's first input, the update that of its first step or steps. Other layers' updates do
    not enter, unlike in the coordinate check. A wrong rule is therefore seen in the row of its own layer.
    """

    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        return {name: rms(change)[None] for name, change, _, _ in _own_changes(stack, batch, steps)}

    measured = measure_sizes(run, "width", widths, steps, seeds, measure)
    return judge_run("a layer's own change", run, "width", widths, [f"change {steps}"], measured, [True])


def alignment_check(run: RunConfig, *, widths: Sequence[int], steps: int = 10, seeds: int = 8) -> Check:
    """Measure how far updates align with inputs; nothing is judged.

    The log alignment ratio is 1/2 without alignment and 1 at full alignment. It is measured as the slope against width
    of log2 of |dW x| over |dW| |x|, which are root mean squares. A slope is free of the constants that a ratio at one
    width would have (arXiv:2407.05872). The values of hidden and output layers can be given as run.alignment.
    """

    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        return {
            name: (rms(change) / (rms(update) * rms(x)))[None]
            for name, change, update, x in _own_changes(stack, batch, steps)
        }

    measured = measure_sizes(run, "width", widths, steps, seeds, measure)
    columns = [f"step {steps}"]
    check = judge_run("alignment of updates with inputs", run, "width", widths, columns, measured, [False])
    reading = "0.5 means no alignment, 1 full alignment; a layer whose input does not grow has none to measure"
    if not run.table.unit:
        reading += ". The values of hidden and output layers can be given as run.alignment"
    return dataclasses.replace(check, expected="", reading=reading)


def spectral_check(run: RunConfig, *, widths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Check that scaled spectral norms of matrices keep their size over width.

    The norm is that of a matrix with its multiplier, times sqrt(fan-in / fan-out), at the start and of the change since
    then. Source: arXiv:2310.17813.
    """

    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        matrices = _matrices(stack)
        first = {name: layer.weight.detach().clone() for name, layer in matrices.items()}
        for step in range(steps):
            stack.step(*batch, step)
        return {
            name: torch.stack(
                [_spectral_norms(first[name], layer), _spectral_norms(layer.weight.detach() - first[name], layer)]
            )
            for name, layer in matrices.items()
        }

    measured = measure_sizes(run, "width", widths, steps, seeds, measure)
    return judge_run("spectral norms", run, "width", widths, ["start", f"change {steps}"], measured, [False, True])


def _matrices(stack: Stack) -> dict[str, Layer]:
    return {name: layer for name, layer in layers_by_name(stack.model).items() if layer.role in MATRICES}


def _own_changes(stack: Stack, batch: Batch, steps: int) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield every matrix's name, output change, update and input.

    The change is that of the output by the matrix's own update, which is yielded as multiplied.
    """
    matrices = _matrices(stack)
    with recorded({}, inputs=matrices) as inputs:
        observe(stack, batch)
    first = {name: layer.weight.detach().clone() for name, layer in matrices.items()}
    for step in range(steps):
        stack.step(*batch, step)
    trials = len(stack.alive)
    with torch.no_grad():
        for name, layer in matrices.items():
            x, trained = inputs[name], layer.weight.detach()
            update = trained - first[name]
            layer.weight.data = update
            change = by_trial(layer(x), trials, layer)
            layer.weight.data = trained
            scaled = scale_fwd(update, layer.multiplier)
            yield name, change, scaled, by_trial(x, trials, layer) if x.is_floating_point() else torch.ones(1, 1)


def _spectral_norms(weight_K: Tensor, layer: Layer) -> Tensor:
    """Return the scaled spectral norm of every trial's weight.

    Where a layer's weight is several matrices, it is the largest of their norms.
    """
    norms_K = [max(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in layer.matrices(w)) for w in weight_K]
    return torch.tensor(norms_K, dtype=torch.float64) * float(layer.multiplier) * _aspect(layer)


def _aspect(layer: Layer) -> float:
    """Return sqrt(fan-in / fan-out) of the sides that grow with width.

    Finite sides are constants and are left out.
    """
    fan_in = layer.fan_in if layer.role in (Role.HIDDEN, Role.OUTPUT) else 1
    fan_out = layer.fan_out if layer.role in (Role.HIDDEN, Role.INPUT) else 1
    return float((fan_in / fan_out) ** 0.5)
