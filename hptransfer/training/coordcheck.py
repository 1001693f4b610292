"""Checks of a parameterization on one model and optimizer: what should not depend on size, does it?

Each trains the model at several widths (or depths) for a few steps on one batch and fits the slope of
log2 of some number against log2 of the size. Under a parameterization that transfers the slope is zero.

Sources: the coordinate check of the mup package (arXiv:2203.03466, appendix D), the depth check of
CompleteP (2505.01618), the spectral condition (2310.17813), alignment ratios (2407.05872).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import MATRICES, Parameterization, Role
from hptransfer.training.config import RunConfig
from hptransfer.training.datasets._base import TOKENS
from hptransfer.training.layers import Layer, tagged
from hptransfer.training.loop import Stack

# An MLP wide enough is held to this, everything else to LOOSE: finite widths alone give slopes of up to 0.2.
TIGHT, LOOSE = 0.1, 0.2
WIDE = 256
# Standard errors: by chance one of eight windows is worse by so much in less than 1 of 100 checks.
WORSE = 3.5
OUTPUTS, STREAM = "outputs", "stream"


@dataclass(frozen=True)
class Row:
    """One line of a check.

    Attributes:
        name: of the module, tensor or quantity.
        values: by size, then by column: means over seeds.
        slopes: of log2 of the values against log2 of the size, by column; empty if the check has none.
        judged: columns that must be flat.
    """

    name: str
    values: list[list[float]]
    slopes: list[float]
    judged: list[bool]


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        what: what the numbers are.
        axis: "width" or "depth", and the sizes along it.
        columns: what the values of a row are, such as steps.
        tolerance: largest slope, up or down, that passes.
        fails: the rows and columns that do not, in words.
        expected: why theory expects a failure; empty if it does not.
    """

    what: str
    axis: str
    sizes: list[int]
    columns: list[str]
    rows: list[Row]
    tolerance: float
    fails: list[str]
    expected: str = ""

    @property
    def passed(self) -> bool:
        return not self.fails


def at_size(run: RunConfig, axis: str, size: int) -> RunConfig:
    """The run with another width or depth.

    Raises:
        ConfigError: the model cannot have that size.
    """
    found = dataclasses.replace(run, model=dataclasses.replace(run.model, **{axis: size}))
    try:
        found.check()
    except ConfigError as error:
        raise ConfigError(f"at {axis} {size}: {error}") from None
    return found


def without_warmup(run: RunConfig, steps: int) -> RunConfig:
    """The run at its peak rate from the first step on, long enough for so many steps."""
    schedule = dataclasses.replace(run.schedule, shape="constant", warmup=0.0)
    return dataclasses.replace(run, schedule=schedule, tokens=max(steps, 1) * run.tokens_a_step)


def coordinate_check(run: RunConfig, *, widths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Root mean square of what every module puts out, and of its change since the start, over training steps.

    One batch is repeated. Judged are the changes: a module whose change grows with width will blow up, one whose change
    shrinks will stop learning.
    """
    return scale_check(run, axis="width", sizes=widths, steps=steps, seeds=seeds)


def scale_check(run: RunConfig, *, axis: str, sizes: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """As the coordinate check, along any setting of the model that is a whole number, such as a mixture's experts."""

    def modules(stack: Stack) -> dict[str, nn.Module]:
        return {**_layers(stack.model), **run.model.probe(stack.model)}

    return _activations(run, axis, sizes, steps, seeds, modules)


def depth_check(run: RunConfig, *, depths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """As the coordinate check, over depth, of the residual stream behind the last block and of the outputs.

    Raises:
        ConfigError: the model has no residual branches.
    """
    if not run.model.residual:
        raise ConfigError(f"check=depth: run/model={run.model.name} has no residual branches; take another model")
    return _activations(run, "depth", depths, steps, seeds, lambda stack: {})


def _activations(
    run: RunConfig, axis: str, sizes: Sequence[int], steps: int, seeds: int, modules: Callable[[Stack], dict[str, Any]]
) -> Check:
    found: dict[str, list[list[float]]] = {}
    for size in sizes:
        logs: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            stack, batch = _start(at_size(run, axis, size), seed, steps)
            with _recorded(stack, modules(stack)) as taken:
                _observe(stack, batch)
                first = dict(taken)
                values: dict[str, list[float]] = {name: [_rms(x)] for name, x in first.items()}
                for step in range(steps):
                    stack.step(*batch, step)
                    _observe(stack, batch)
                    for name, x in taken.items():
                        values[name].append(_rms(x - first[name]))
            for name, numbers in values.items():
                logs.setdefault(name, []).append(numbers)
        for name, repeats in logs.items():
            found.setdefault(name, []).append(_mean(repeats))
    columns = ["start", *(f"change {step + 1}" for step in range(steps))]
    judged = [False, *[True] * steps]
    common = {name: values for name, values in found.items() if len(values) == len(sizes)}
    return _judge("activations", run, axis, sizes, columns, common, judged)


def one_layer_check(run: RunConfig, *, widths: Sequence[int], seeds: int = 8) -> Check:
    """How much one step of a layer's own weights changes what it puts out for its first input.

    Unlike in the coordinate check no layer feels the others, so that a wrong rule is seen in its own row.
    """
    found: dict[str, list[list[float]]] = {}
    for width in widths:
        logs: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            stack, batch = _start(at_size(run, "width", width), seed, 1)
            for name, change, _, _ in _own_changes(stack, batch):
                logs.setdefault(name, []).append([_rms(change)])
        for name, repeats in logs.items():
            found.setdefault(name, []).append(_mean(repeats))
    return _judge("a layer's own change", run, "width", widths, ["change 1"], found, [True])


def alignment_check(run: RunConfig, *, widths: Sequence[int], steps: int = 10, seeds: int = 8) -> Check:
    """Log alignment ratio of updates with inputs: 1/2 is none, 1 is full; nothing is judged.

    The slope against width of log2 of |dW x| over |dW| |x|, root mean squares each, which is free of the
    constants that a ratio at one width would have (arXiv:2407.05872). What it says of hidden and output
    layers can be given as run.alignment.
    """
    found: dict[str, list[list[float]]] = {}
    for width in widths:
        logs: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            stack, batch = _start(at_size(run, "width", width), seed, steps)
            for name, change, update, x in _own_changes(stack, batch, steps):
                logs.setdefault(name, []).append([_rms(change) / (_rms(update) * _rms(x))])
        for name, repeats in logs.items():
            found.setdefault(name, []).append(_mean(repeats))
    return _judge("alignment of updates with inputs", run, "width", widths, [f"step {steps}"], found, [False])


def spectral_check(run: RunConfig, *, widths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Spectral norm of every matrix, with its multiplier, times sqrt(fan-in / fan-out); and of its change.

    Source: arXiv:2310.17813.
    """
    found: dict[str, list[list[float]]] = {}
    for width in widths:
        logs: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            stack, batch = _start(at_size(run, "width", width), seed, steps)
            matrices = {n: m for n, m in _layers(stack.model).items() if m.role in MATRICES}
            first = {name: layer.weight.detach()[0].clone() for name, layer in matrices.items()}
            for step in range(steps):
                stack.step(*batch, step)
            for name, layer in matrices.items():
                now = layer.weight.detach()[0]
                scale = float(layer.multiplier) * _aspect(layer)
                norms = [_spectral_norm(layer, w) * scale for w in (first[name], now - first[name])]
                logs.setdefault(name, []).append(norms)
        for name, repeats in logs.items():
            found.setdefault(name, []).append(_mean(repeats))
    return _judge("spectral norms", run, "width", widths, ["start", f"change {steps}"], found, [False, True])


def _aspect(layer: Layer) -> float:
    """sqrt(fan-in / fan-out), finite sides left out: they are constants."""
    fan_in = layer.fan_in if layer.role in (Role.HIDDEN, Role.OUTPUT) else 1
    fan_out = layer.fan_out if layer.role in (Role.HIDDEN, Role.INPUT) else 1
    return float((fan_in / fan_out) ** 0.5)


def _spectral_norm(layer: Layer, weight: Tensor) -> float:
    """Of a layer's matrix, or the largest of its matrices'."""
    return max(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in layer.matrices(weight))


def wider_check(run: RunConfig, *, widths: Sequence[int], seeds: int = 8) -> Check:
    """Training loss over the run's whole budget: at every time a wider model has the lower one (mup package).

    The run in eight windows; a wider model counts as worse if it is by more than `WORSE` standard errors of the
    difference over seeds, all windows' differences pooled.
    """
    windows = 8
    curves = []
    data = run.data.load()
    for width in widths:
        wide = at_size(run, "width", width)
        stack = Stack([wide] * seeds, list(range(seeds)), device="cpu")
        losses = []
        for step in range(wide.steps):
            inputs, targets = data.batch(seed=run.data_seed, step=step, batch=run.batch, sequence=run.sequence)
            losses.append(stack.step(inputs, targets, step))
        parts = torch.stack(losses).tensor_split(windows)
        curves.append(torch.stack([part.mean(dim=0) for part in parts]).double().numpy())  # windows x seeds
    fails = []
    for index in range(1, len(widths)):
        difference = curves[index] - curves[index - 1]
        error = (difference.var(axis=1, ddof=1).mean() / seeds) ** 0.5
        worse = difference.mean(axis=1) - WORSE * error
        fails += [
            f"width {widths[index]} is worse than {widths[index - 1]} in window {window + 1}: by "
            f"{difference[window].mean():.4f} nats"
            for window in np.flatnonzero(worse > 0)
        ]
    columns = [f"window {window + 1}" for window in range(windows)]
    row = Row("training loss", [list(map(float, curve.mean(axis=1))) for curve in curves], [], [])
    return Check("training loss", "width", list(widths), columns, [row], 0.0, fails, expected_failure(run))


CHECKS: dict[str, Callable[..., Check]] = {
    "width": coordinate_check,
    "depth": depth_check,
    "one-layer": one_layer_check,
    "spectral": spectral_check,
    "wider": wider_check,
    "alignment": alignment_check,
}


def _start(run: RunConfig, seed: int, steps: int) -> tuple[Stack, tuple[Tensor, Tensor]]:
    run = without_warmup(run, steps)
    batch = run.data.load().batch(seed=run.data_seed, step=0, batch=run.batch, sequence=run.sequence)
    stack = Stack([run], [seed], device="cpu")
    run.model.probe(stack.model)
    return stack, batch


def _layers(model: nn.Module) -> dict[str, Layer]:
    return {item.name.removesuffix(".weight"): item.layer for item in tagged(model)}


@contextmanager
def _recorded(stack: Stack, modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What modules put out in the last forward pass, by name, with the outputs and the residual stream.

    A module that is used twice is recorded each time, with a number.
    """
    taken: dict[str, Tensor] = {}
    uses: dict[str, int] = {}

    def note(name: str, x: Tensor) -> None:
        uses[name] = uses.get(name, 0) + 1
        taken[name if uses[name] == 1 else f"{name} #{uses[name]}"] = x.detach()

    handles = [
        module.register_forward_hook(lambda _, __, x, name=name: note(name, x)) for name, module in modules.items()
    ]
    if stack.residual:
        handles.append(stack.model.get_submodule("norm").register_forward_pre_hook(lambda _, x: note(STREAM, x[0])))
    handles.append(stack.model.register_forward_pre_hook(lambda _, __: uses.clear()))
    handles.append(stack.model.register_forward_hook(lambda _, __, x: note(OUTPUTS, x)))
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _observe(stack: Stack, batch: tuple[Tensor, Tensor]) -> None:
    stack.losses(*batch)


def _own_changes(
    stack: Stack, batch: tuple[Tensor, Tensor], steps: int = 1
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """For every matrix: name, change of its output by its own update, that update, and its input."""
    matrices = {n: m for n, m in _layers(stack.model).items() if m.role in MATRICES}
    inputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, x, name=name: inputs.setdefault(name, x[0].detach()))
        for name, module in matrices.items()
    ]
    _observe(stack, batch)
    for handle in handles:
        handle.remove()
    first = {name: layer.weight.detach().clone() for name, layer in matrices.items()}
    for step in range(steps):
        stack.step(*batch, step)
    with torch.no_grad():
        for name, layer in matrices.items():
            update = layer.weight.detach() - first[name]
            trained = layer.weight.data
            layer.weight.data = update
            change = layer(inputs[name])
            layer.weight.data = trained
            x = inputs[name]
            yield name, change, update, x if x.is_floating_point() else torch.ones(1)


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _mean(repeats: Sequence[Sequence[float]]) -> list[float]:
    """Geometric mean over seeds: the slope is of logarithms."""
    logs = np.log(np.maximum(np.array(repeats), 1e-300))
    return [float(value) for value in np.exp(logs.mean(axis=0))]


def _judge(
    what: str,
    run: RunConfig,
    axis: str,
    sizes: Sequence[int],
    columns: list[str],
    found: dict[str, list[list[float]]],
    judged: list[bool],
) -> Check:
    tight = axis == "width" and run.model.name == "mlp" and min(sizes) >= WIDE
    tolerance = TIGHT if tight else LOOSE
    return judge(what, axis, sizes, columns, found, judged, tolerance=tolerance, expected=expected_failure(run))


def judge(
    what: str,
    axis: str,
    sizes: Sequence[int],
    columns: list[str],
    found: dict[str, list[list[float]]],
    judged: list[bool],
    *,
    tolerance: float,
    expected: str,
) -> Check:
    """The check of numbers by name, size and column: those that must be flat, are they?"""
    rows, fails = [], []
    for name, values in found.items():
        slopes = [
            float(np.polyfit(np.log2(sizes), np.log2(np.array(values)[:, c] + 1e-300), 1)[0])
            for c in range(len(columns))
        ]
        rows.append(Row(name, values, slopes, judged))
        moved = [max(column) > 0 for column in zip(*values, strict=True)]
        for column, slope, must, moves in zip(columns, slopes, judged, moved, strict=True):
            if must and moves and not abs(slope) <= tolerance:
                fails.append(f"{name}, {column}: slope {slope:+.2f}")
    return Check(what, axis, list(sizes), columns, rows, tolerance, fails, expected)


def expected_failure(run: RunConfig) -> str:
    """Why theory expects that a run's parameterization does not pass; empty if it should."""
    expected = theory(run.parameterization, run.table, run.alignment)
    if not expected and run.table.lookup is not None and TOKENS in run.model.takes:
        return f"{run.parameterization} lowers the rate of embeddings with width, by its authors' choice"
    return expected


def theory(name: str, table: Parameterization, alignment: object) -> str:
    """Why no model is expected to pass under a parameterization; empty if they should."""
    if table.global_rate and alignment == "default":
        return f"{name} has one learning rate for all: its updates grow with width"
    readout = table.rows[Role.OUTPUT]
    if readout.a + readout.b == 0.5:
        return f"{name}'s readout is n^1/2 too large for features that move: the outputs' change grows"
    return ""
