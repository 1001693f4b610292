"""Coordinate check of a user's own model: `coord_check`.

The check measures and judges as `hptransfer.coordcheck.activations` does for builtin models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.coordcheck.judgement import LOG_FLOOR, LOOSE, OUTPUTS, Check, judge
from hptransfer.coordcheck.recording import recorded
from hptransfer.coordcheck.theory import theory
from hptransfer.core.errors import ConfigError
from hptransfer.training.user_model.branches import block_pattern
from hptransfer.training.user_model.initial_values import root_mean_square
from hptransfer.training.user_model.parameterize import DEFAULT_PARAMETERIZATION, Choices, parameterize
from hptransfer.training.user_model.parameterized import Parameterized
from hptransfer.training.user_model.readouts import NoHiddenReadouts
from hptransfer.training.user_model.roles import plain_name
from hptransfer.training.user_model.rules import base_sizes, check_whole, table_by_name

Loss = Callable[[nn.Module, Any], Tensor]


def coord_check(
    make_model: Callable[..., nn.Module],
    *,
    batch: Any,
    loss: Loss,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    steps: int = 4,
    seeds: int = 4,
    base: int | Mapping[str, int],
    **choices: Unpack[Choices],
) -> Check:
    """Check that changes of module outputs do not scale with size.

    The numbers are root mean squares of every module's output, and of its change over a few training steps, at several
    sizes. One batch is repeated. A change that grows with size will blow up, and one that shrinks will stop learning.
    One that is flat transfers. A module that is used more than once is recorded each time. Leave dropout out.

    Args:
        make_model: `make_model(width)` builds the model with weights drawn by torch's own generator; over depth,
            `make_model(width, depth)` builds it.
        batch, loss: `loss(model, batch)` is the training loss, a number with a gradient.
        widths, depths: sizes to compare, of one or the other. Depths are compared at the base's width, and modules
            in the repeated blocks are not judged.
        base: width at which every factor is 1, or a dictionary, as in `parameterize`.
        choices: further arguments of `parameterize`, `optimizer` and `lr` at least; over depths, `depth` is set to
            each in turn. A rate above the usual ones shows more, such as 1e-2 for adamw.

    Raises:
        ConfigError: fewer than two sizes, or a loss that cannot train. A call uses an embedding as the readout, or
            `parameterize` refuses an argument.
    """
    axis, sizes = _axis(widths, depths)
    check_whole("steps", steps)
    check_whole("seeds", seeds)
    _check_signature("make_model", make_model, [axis] if axis == "width" else ["width", axis])
    _check_signature("loss", loss, ["model", "batch"])

    def changes(size: int, seed: int) -> dict[str, list[float]]:
        make, width, arguments = _at(make_model, axis, size, base, choices)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make(width)
        return _changes(model, parameterize(model, make=make, base=base, **arguments), batch, loss, steps)

    measured: dict[str, list[list[float]]] = {}
    for size in sizes:
        repeats = [changes(size, seed) for seed in range(seeds)]
        for name in repeats[0]:
            # The geometric mean, as the slope is of logarithms.
            logs = np.log(np.maximum([values[name] for values in repeats], LOG_FLOOR))
            measured.setdefault(name, []).append([float(value) for value in np.exp(logs.mean(axis=0))])
    judged = _judged(measured, axis, len(sizes))
    if not judged:
        raise ConfigError(
            "no module returned a tensor of numbers at every size, so nothing can be judged: call the modules in loss"
        )
    return judge(
        "activations",
        axis,
        sizes,
        ["start", *(f"change {step + 1}" for step in range(steps))],
        judged,
        [False, *[True] * steps],
        tolerance=LOOSE,
        expected=_expected(axis, choices),
    )


def _check_signature(place: str, function: object, arguments: Sequence[str]) -> None:
    """Raise ConfigError unless `function` can be called with these arguments."""
    wanted = f"{place} must be a function of ({', '.join(arguments)})"
    if not callable(function):
        raise ConfigError(f"{wanted}, got {function!r}; write it as lambda {', '.join(arguments)}: ...")
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:  # some functions in C have no signature
        return
    except TypeError as error:
        raise ConfigError(
            f"{wanted}, but the given one has {error}; write it as lambda {', '.join(arguments)}: ..."
        ) from None


def _axis(widths: Sequence[int], depths: Sequence[int]) -> tuple[str, list[int]]:
    """Return the compared axis and its sizes."""
    for place, value in {"widths": widths, "depths": depths}.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{place} must be a list of sizes, got {value!r}; write it as {place}=(64, 128, 256)")
    if widths and depths:
        raise ConfigError(
            f"widths {list(widths)} and depths {list(depths)} are two checks; give one, and the other to a second call"
        )
    axis = "depth" if depths else "width"
    sizes = list(depths or widths)
    for index, size in enumerate(sizes):
        check_whole(f"{axis}s[{index}]", size)
    if len(set(sizes)) < 2:
        raise ConfigError(f"{axis}s must be two or more different sizes, got {sizes}; three or four show a slope")
    return axis, sizes


def _at(
    make_model: Callable[..., nn.Module], axis: str, size: int, base: int | Mapping[str, int], choices: Choices
) -> tuple[Callable[[int], nn.Module], int, Choices]:
    """Return a size's builder, its width, and arguments of `parameterize`."""
    if axis == "width":
        return make_model, size, choices
    arguments = choices.copy()
    if arguments.get("alpha"):
        arguments["depth"] = size
    return lambda width: make_model(width, size), base_sizes(base)["width"], arguments


def _judged(measured: Mapping[str, list[list[float]]], axis: str, count: int) -> dict[str, list[list[float]]]:
    """Return the numbers that exist at every size.

    Over depth they are only those of modules outside the repeated blocks.
    """
    common = {name: values for name, values in measured.items() if len(values) == count}
    if axis == "width":
        return common
    growing = {block_pattern(name) for name in measured.keys() - common.keys()}
    return {name: values for name, values in common.items() if block_pattern(name) not in growing}


def _expected(axis: str, choices: Choices) -> str:
    """Return why theory expects a failure; empty if it does not."""
    name = choices.get("parameterization", DEFAULT_PARAMETERIZATION)
    if axis == "depth" and not choices.get("alpha"):
        return "without a depth rule (alpha) the stream grows with its blocks"
    return theory(name, table_by_name(name), choices.get("alignment", "default"))


def _changes(
    model: nn.Module, parameterized: Parameterized, batch: Any, loss: Loss, steps: int
) -> dict[str, list[float]]:
    """Return root mean squares of every output and of its changes.

    The first is that of the output at the start. The others are those of its change after each step.
    """
    with NoHiddenReadouts(parameterized):
        first = _outputs(model, batch, loss)
    values = {name: [root_mean_square(x)] for name, x in first.items()}
    optimizers = parameterized.optimizers()
    for _ in range(steps):
        model.zero_grad()
        _trainable(loss(model, batch)).backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        for name, x in _outputs(model, batch, loss).items():
            values[name].append(root_mean_square(x - first[name]))
    return values


def _trainable(value: object) -> Tensor:
    """Return the loss if it can be trained on.

    Raises:
        ConfigError: it is not one number, or has no gradient.
    """
    if not isinstance(value, Tensor):
        raise ConfigError(f"loss(model, batch) must return a tensor of one number, and returns {type(value).__name__}")
    if value.numel() != 1:
        raise ConfigError(
            f"loss(model, batch) must return one number, and returns {'x'.join(map(str, value.shape))}; take its mean"
        )
    if not value.requires_grad:
        raise ConfigError(
            "loss(model, batch) must have a gradient, and returns a number without one; call the model that it is "
            "given, outside of torch.no_grad, and without detach or item"
        )
    return value


@torch.no_grad()
def _outputs(model: nn.Module, batch: Any, loss: Loss) -> dict[str, Tensor]:
    modules = {plain_name(name) or OUTPUTS: module for name, module in model.named_modules()}
    # Copied, as a user's model may change tensors in place.
    with recorded(modules, read=lambda _, x: x.clone() if x.is_floating_point() else None) as outputs:
        loss(model, batch)
    return outputs
