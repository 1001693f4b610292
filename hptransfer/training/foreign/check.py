"""The coordinate check of anybody's model: `coord_check`.

As `hptransfer.training.coordcheck` does with the builtin models, and judged alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import PARAMETERIZATIONS, Role
from hptransfer.training.coordcheck import LOOSE, OUTPUTS, Check, judge, theory
from hptransfer.training.foreign.parameterize import parameterize
from hptransfer.training.foreign.roles import plain

Loss = Callable[[nn.Module, Any], Tensor]


def coord_check(
    make_model: Callable[[int], nn.Module],
    *,
    widths: Sequence[int],
    batch: Any,
    loss: Loss,
    base: int,
    optimizer: str,
    lr: float,
    settings: Mapping[str, Any] | None = None,
    parameterization: str = "mup",
    alignment: str | float = "default",
    roles: Mapping[str, str | Role] | None = None,
    steps: int = 4,
    seeds: int = 4,
) -> Check:
    """Root mean square of what every module puts out, and of its change, over a few training steps, at several widths.

    One batch is repeated. A change that grows with width will blow up, one that shrinks will stop learning; what is
    flat transfers. A module that is used more than once is recorded each time. Leave dropout out.

    Args:
        make_model: builds the model at a width, its weights drawn by torch's own generator.
        batch, loss: `loss(model, batch)` is the training loss, a number with a gradient.
        base: the width at which every factor is 1.
        optimizer, lr, settings, parameterization, alignment, roles: as `parameterize` takes them. A rate above the
            usual ones shows more, such as 1e-2 for adamw.

    Raises:
        ConfigError: fewer than two widths, or what `parameterize` refuses.
    """
    if len(set(widths)) < 2 or min(widths) < 1:
        raise ConfigError(f"widths must be two or more different sizes of at least 1, got {list(widths)}")
    if steps < 1 or seeds < 1:
        raise ConfigError(f"steps and seeds must be at least 1, got {steps} and {seeds}")

    def changes(width: int, seed: int) -> dict[str, list[float]]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make_model(width)
        parameterized = parameterize(
            model,
            make=make_model,
            base=base,
            optimizer=optimizer,
            lr=lr,
            settings=settings,
            parameterization=parameterization,
            alignment=alignment,
            roles=roles,
        )
        return _changes(model, parameterized.optimizers(), batch, loss, steps)

    found: dict[str, list[list[float]]] = {}
    for width in widths:
        repeats = [changes(width, seed) for seed in range(seeds)]
        for name in repeats[0]:
            # The geometric mean, as the slope is of logarithms.
            logs = np.log(np.maximum([one[name] for one in repeats], 1e-300))
            found.setdefault(name, []).append([float(value) for value in np.exp(logs.mean(axis=0))])
    common = {name: values for name, values in found.items() if len(values) == len(widths)}
    return judge(
        "activations",
        "width",
        widths,
        ["start", *(f"change {step + 1}" for step in range(steps))],
        common,
        [False, *[True] * steps],
        tolerance=LOOSE,
        expected=theory(parameterization, PARAMETERIZATIONS.get(parameterization), alignment),
    )


def _changes(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], batch: Any, loss: Loss, steps: int
) -> dict[str, list[float]]:
    """Every output's size at the start, and of its change after each step."""
    first = _outputs(model, batch, loss)
    values = {name: [_rms(x)] for name, x in first.items()}
    for _ in range(steps):
        model.zero_grad()
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        for name, x in _outputs(model, batch, loss).items():
            values[name].append(_rms(x - first[name]))
    return values


@torch.no_grad()
def _outputs(model: nn.Module, batch: Any, loss: Loss) -> dict[str, Tensor]:
    with _recorded(model) as taken:
        loss(model, batch)
    return taken


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What modules put out, by name; a further use of one has its number."""
    taken: dict[str, Tensor] = {}
    uses: dict[str, int] = {}

    def note(name: str, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        if isinstance(x, Tensor) and x.is_floating_point():
            uses[name] = uses.get(name, 0) + 1
            taken[name if uses[name] == 1 else f"{name} #{uses[name]}"] = x.detach().clone()

    named = {plain(name) or OUTPUTS: module for name, module in model.named_modules()}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in named.items()
    ]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
