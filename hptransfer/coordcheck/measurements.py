"""Checks of a parameterization on one model and optimizer: what should not depend on size, does it?

Each trains the model at several widths (or depths) for a few steps on one batch and fits the slope of
log2 of some number against log2 of the size. Under a parameterization that transfers the slope is zero.

Sources: the coordinate check of the mup package (arXiv:2203.03466, appendix D), the depth check of
CompleteP (2505.01618), the spectral condition (2310.17813), alignment ratios (2407.05872).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import MATRICES, Parameterization, Role
from hptransfer.training.config import RunConfig
from hptransfer.training.layers import Conv2d, Embedding, Layer, scale_fwd, tagged
from hptransfer.training.models import MODELS
from hptransfer.training.stack import Stack

# An MLP wide enough is held to this, everything else to LOOSE: finite widths alone give slopes of up to 0.2.
TIGHT, LOOSE = 0.1, 0.2
WIDE = 256
# Stands for 0, which has no logarithm.
NOTHING = 1e-300
# Parameters of a stack of seeds: more of them gain nothing from it.
STACKED = 1_000_000
OUTPUTS, STREAM = "outputs", "stream"


@dataclass(frozen=True)
class CheckRow:
    """One line of a check.

    Attributes:
        name: of the module, tensor or quantity.
        values: by size, then by column: means over seeds.
        slopes: of log2 of the values against log2 of the size, by column; empty if the check has none.
        judged: columns that must be flat; what does not move at all is not one.
        prescribed: slope that counts as flat: not 0 where a parameterization lets a layer learn slower with width.
    """

    name: str
    values: list[list[float]]
    slopes: list[float]
    judged: list[bool]
    prescribed: float = 0.0


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
        reading: what the numbers say where nothing is judged; empty if something is.
    """

    what: str
    axis: str
    sizes: list[int]
    columns: list[str]
    rows: list[CheckRow]
    tolerance: float
    fails: list[str]
    expected: str = ""
    reading: str = ""

    @property
    def passed(self) -> bool:
        return not self.fails

    def steepest(self) -> tuple[float, str, str]:
        """The slope farthest off of those that are judged, with its row and column; NaN is farther than any number."""
        judged = [
            (slope - row.prescribed, row.name, column)
            for row in self.rows
            for slope, column, must in zip(row.slopes, self.columns, row.judged, strict=True)
            if must
        ]
        return max(judged, key=lambda found: abs(found[0]) if found[0] == found[0] else float("inf"))


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
        branched = " or ".join(name for name in MODELS.names() if MODELS.get(name).residual)
        raise ConfigError(
            f"check=depth: run/model={run.model.name} has no residual branches; take run/model={branched}"
        )
    check = _activations(run, "depth", depths, steps, seeds, lambda stack: {})
    if check.expected or run.branch_rule().alpha:
        return check
    return dataclasses.replace(
        check, expected="without a depth rule (run.branch.alpha) the stream grows with its blocks"
    )


def _activations(
    run: RunConfig, axis: str, sizes: Sequence[int], steps: int, seeds: int, modules: Callable[[Stack], dict[str, Any]]
) -> Check:
    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        with _recorded(stack, modules(stack)) as taken:
            first: dict[str, Tensor] = {}
            values: dict[str, list[Tensor]] = {}
            for step in range(steps + 1):
                # A training step's own forward pass is one before its update.
                if step < steps:
                    stack.step(*batch, step)
                else:
                    _observe(stack, batch)
                first = first or dict(taken)
                for name, x in taken.items():
                    values.setdefault(name, []).append(_rms(x - first[name] if step else x))
        return {name: torch.stack(columns) for name, columns in values.items()}

    found = _measured(run, axis, sizes, steps, seeds, measure)
    columns = ["start", *(f"change {step + 1}" for step in range(steps))]
    common = {name: values for name, values in found.items() if len(values) == len(sizes)}
    return _judge("activations", run, axis, sizes, columns, common, [False, *[True] * steps])


def one_layer_check(run: RunConfig, *, widths: Sequence[int], steps: int = 1, seeds: int = 8) -> Check:
    """How much the first step, or steps, of a layer's own weights change what it puts out for its first input.

    Unlike in the coordinate check no layer feels the others, so that a wrong rule is seen in its own row.
    """

    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        return {name: _rms(change)[None] for name, change, _, _ in _own_changes(stack, batch, steps)}

    found = _measured(run, "width", widths, steps, seeds, measure)
    return _judge("a layer's own change", run, "width", widths, [f"change {steps}"], found, [True])


def alignment_check(run: RunConfig, *, widths: Sequence[int], steps: int = 10, seeds: int = 8) -> Check:
    """Log alignment ratio of updates with inputs: 1/2 is none, 1 is full; nothing is judged.

    The slope against width of log2 of |dW x| over |dW| |x|, root mean squares each, which is free of the
    constants that a ratio at one width would have (arXiv:2407.05872). What it says of hidden and output
    layers can be given as run.alignment.
    """

    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        return {
            name: (_rms(change) / (_rms(update) * _rms(x)))[None]
            for name, change, update, x in _own_changes(stack, batch, steps)
        }

    found = _measured(run, "width", widths, steps, seeds, measure)
    check = _judge("alignment of updates with inputs", run, "width", widths, [f"step {steps}"], found, [False])
    reading = "0.5 is no alignment and 1 is full; of layers whose input does not grow there is none to measure"
    if not run.table.unit:
        reading += ". What hidden and output layers have can be given as run.alignment"
    return dataclasses.replace(check, expected="", reading=reading)


def spectral_check(run: RunConfig, *, widths: Sequence[int], steps: int = 4, seeds: int = 8) -> Check:
    """Spectral norm of every matrix, with its multiplier, times sqrt(fan-in / fan-out); and of its change.

    Source: arXiv:2310.17813.
    """

    def measure(stack: Stack, batch: Batch) -> MeasuredValues:
        matrices = {name: layer for name, layer in _layers(stack.model).items() if layer.role in MATRICES}
        first = {name: layer.weight.detach().clone() for name, layer in matrices.items()}
        for step in range(steps):
            stack.step(*batch, step)
        return {
            name: torch.stack(
                [_spectral_norms(first[name], layer), _spectral_norms(layer.weight.detach() - first[name], layer)]
            )
            for name, layer in matrices.items()
        }

    found = _measured(run, "width", widths, steps, seeds, measure)
    return _judge("spectral norms", run, "width", widths, ["start", f"change {steps}"], found, [False, True])


def _spectral_norms(weight_K: Tensor, layer: Layer) -> Tensor:
    """Of weights such as a layer's, trial by trial: of its matrix, or the largest of its matrices'."""
    norms_K = [max(float(torch.linalg.matrix_norm(one, 2)) for one in layer.matrices(own)) for own in weight_K]
    return torch.tensor(norms_K, dtype=torch.float64) * float(layer.multiplier) * _aspect(layer)


def _aspect(layer: Layer) -> float:
    """sqrt(fan-in / fan-out), finite sides left out: they are constants."""
    fan_in = layer.fan_in if layer.role in (Role.HIDDEN, Role.OUTPUT) else 1
    fan_out = layer.fan_out if layer.role in (Role.HIDDEN, Role.INPUT) else 1
    return float((fan_in / fan_out) ** 0.5)


Batch = tuple[Tensor, Tensor]
MeasuredValues = dict[str, Tensor]
"""Numbers of a stack by name, (columns, trials)."""


def _measured(
    run: RunConfig,
    axis: str,
    sizes: Sequence[int],
    steps: int,
    seeds: int,
    measure: Callable[[Stack, Batch], MeasuredValues],
) -> dict[str, list[list[float]]]:
    """What `measure` finds at every size, by name, size and column: means over seeds.

    Seeds train as stacks: small models cost more to call than to compute.
    """
    found: dict[str, list[list[float]]] = {}
    for size in sizes:
        one = without_warmup(at_size(run, axis, size), steps)
        batch = one.data.load().batch(seed=one.data_seed, step=0, batch=one.batch, sequence=one.sequence)
        parts = []
        for stack in stacks(one, seeds):
            one.model.probe(stack.model)
            parts.append(measure(stack, batch))
        for name in parts[0]:
            found.setdefault(name, []).append(_mean(torch.cat([part[name] for part in parts], dim=1)))
    return found


def stacks(run: RunConfig, seeds: int) -> Iterator[Stack]:
    """Seeds 0, 1, ... in stacks of at most so many parameters, or of one."""
    most = max(1, STACKED // run.model.num_params(run.shape))
    for start in range(0, seeds, most):
        some = range(start, min(start + most, seeds))
        yield Stack([run] * len(some), some, device="cpu")


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

    trials = len(stack.alive)
    handles = [
        module.register_forward_hook(lambda layer, _, x, name=name: note(name, _by_trial(x, trials, layer)))
        for name, module in modules.items()
    ]
    if stack.residual:
        last = [item.layer for item in tagged(stack.model) if item.inside][-1]
        handles.append(
            stack.model.get_submodule("norm").register_forward_pre_hook(
                lambda _, x: note(STREAM, _by_trial(x[0], trials, last))
            )
        )
    handles.append(stack.model.register_forward_pre_hook(lambda _, __: uses.clear()))
    handles.append(stack.model.register_forward_hook(lambda _, __, x: note(OUTPUTS, x)))
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _observe(stack: Stack, batch: Batch) -> None:
    stack.losses(*batch)


def _own_changes(stack: Stack, batch: Batch, steps: int = 1) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """For every matrix: name, change of its output by its own update, that update as multiplied, and its input."""
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
    trials = len(stack.alive)
    with torch.no_grad():
        for name, layer in matrices.items():
            x, trained = inputs[name], layer.weight.detach()
            update = trained - first[name]
            layer.weight.data = update
            change = _by_trial(layer(x), trials, layer)
            layer.weight.data = trained
            used = scale_fwd(update, layer.multiplier)
            yield name, change, used, _by_trial(x, trials, layer) if x.is_floating_point() else torch.ones(1, 1)


def _by_trial(x: Tensor, trials: int, layer: nn.Module) -> Tensor:
    """What such a layer takes or puts out, the trials along the first axis: a convolution has them in its channels."""
    return x.view(len(x), trials, -1, *x.shape[2:]).transpose(0, 1) if isinstance(layer, Conv2d) else x


def _rms(x_K: Tensor) -> Tensor:
    """Root mean squares, trial by trial."""
    x_KN = x_K.flatten(1)
    means_K: Tensor = torch.linalg.vector_norm(x_KN, dim=1, dtype=torch.float64) / x_KN.shape[1] ** 0.5
    return means_K


def _mean(values: Tensor) -> list[float]:
    """Geometric mean over the last axis, seeds: the slope is of logarithms."""
    means: list[float] = values.double().clamp_min(NOTHING).log().mean(dim=-1).exp().tolist()
    return means


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
    expected = expected_failure(run)
    wanted = slower_by_intent(run) if axis == "width" else {}
    return judge(what, axis, sizes, columns, found, judged, tolerance=tolerance, expected=expected, prescribed=wanted)


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
    prescribed: Mapping[str, float] | None = None,
) -> Check:
    """The check of numbers by name, size and column: those that must be flat, are they?

    Args:
        prescribed: slopes that count as flat, by name; of all others it is 0.
    """
    rows, fails = [], []
    for name, measured in found.items():
        values = [[value if value > 2 * NOTHING else 0.0 for value in size] for size in measured]
        slopes = [log_slope(sizes, [own[c] for own in values]) for c in range(len(columns))]
        moved = [max(column) > 2 * NOTHING for column in zip(*values, strict=True)]
        row = CheckRow(
            name,
            values,
            slopes,
            [a and b for a, b in zip(judged, moved, strict=True)],
            (prescribed or {}).get(name, 0.0),
        )
        rows.append(row)
        for column, found_slope, must in zip(columns, slopes, row.judged, strict=True):
            if must and not abs(found_slope - row.prescribed) <= tolerance:
                fails.append(f"{name}, {column}: slope {found_slope:+.2f}")
    return Check(what, axis, list(sizes), columns, rows, tolerance, fails, expected)


def log_slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Of log2 of the values against log2 of the sizes; NaN if not all are finite."""
    if not np.isfinite(values).all():
        return float("nan")
    return float(np.polyfit(np.log2(sizes), np.log2(np.array(values) + NOTHING), 1)[0])


def slower_by_intent(run: RunConfig) -> dict[str, float]:
    """Slopes over width that a parameterization's own rates give layers by intent, by name; of all others it is 0."""
    if run.table.lookup is None:
        return {}
    with torch.device("meta"):
        model = run.model.build(trials=1, shape=run.shape)
    slope = run.table.lookup.total
    return {name: slope for name, layer in _layers(model).items() if isinstance(layer, Embedding)}


def expected_failure(run: RunConfig) -> str:
    """Why theory expects that a run's parameterization does not pass; empty if it should."""
    readout = run.table.rows[Role.OUTPUT]
    one_rate = run.table.global_rate and run.alignment == "default"
    if one_rate or readout.a + readout.b > 0.5 or not run.model.zero_readout:
        return theory(run.parameterization, run.table, run.alignment)
    if run.optimizer.law(Role.HIDDEN).gradient:
        return f"{run.parameterization}'s rates count on the gradient that its readout's first values would let through"
    return ""


def theory(name: str, table: Parameterization, alignment: object) -> str:
    """Why no model is expected to pass under a parameterization; empty if they should."""
    if table.global_rate and alignment == "default":
        return f"{name} has one learning rate for all: its updates do not keep their size over width"
    readout = table.rows[Role.OUTPUT]
    if readout.a + readout.b == 0.5:
        return f"{name}'s readout is n^1/2 too large for features that move: the outputs' change grows"
    return ""
