"""Rescaling of a user's initial values to the parameterization's spread.

The spread becomes that of the base width times the parameterization's factor. The scaling of a model's own
initialization with width is measured: a tensor's root mean square at this size over that in the base model, drawn once
from a fixed seed. Usual laws (constant, a side's or Xavier's -1/2, a side's -1) are recognized and used exactly, as
measured spreads of small tensors scatter. A spread that fits none is used as measured. Tensors whose entries all start
alike, such as zeros or gains of one, and tensors of base size keep their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hptransfer.training.user_model.roles import InferredRole, parameters

# Largest distance of a measured spread's logarithm from a usual law's, and that in standard errors of a sample.
SYSTEMATIC, SIGMAS = 0.05, 4.0


def spread_laws(
    model: nn.Module, items: Sequence[InferredRole], make_base: Callable[[], nn.Module]
) -> dict[str, float]:
    """Return every parameter's initial spread over that at the base, by name.

    Parameters whose entries all start alike are left out.
    """
    neighbours = _neighbours(items)
    resized = [item for item in items if _sides(neighbours[item.name])]
    if not resized:
        return {}
    now, base = parameters(model), parameters(_build_base(make_base))
    laws: dict[str, float] = {}
    # Matrices first: a matrix decides the law of its small bias.
    for item in sorted(resized, key=lambda item: -math.prod(item.shape)):
        values, base_values = _unsharded(now[item.name].detach()), base[item.name].detach()
        if not (_alike(values) or _alike(base_values)):
            error = SYSTEMATIC + SIGMAS / (2 * min(values.numel(), base_values.numel())) ** 0.5
            known = [laws[neighbour.name] for neighbour in neighbours[item.name] if neighbour.name in laws]
            laws[item.name] = _nearest_law(
                root_mean_square(values) / root_mean_square(base_values), _sides(neighbours[item.name]), error, known
            )
    return laws


@torch.no_grad()
def rescale_values(model: nn.Module, laws: Mapping[str, float], factors: Mapping[str, float]) -> None:
    """Give each tensor with a law the base's spread times its factor."""
    for name, parameter in parameters(model).items():
        change = factors[name] / laws[name] if name in laws else 1.0
        if change != 1.0:
            parameter.mul_(change)


def _build_base(make_base: Callable[[], nn.Module]) -> nn.Module:
    """Build the base model with fixed values.

    The caller's random state is left unchanged.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        return make_base()


def _neighbours(items: Sequence[InferredRole]) -> dict[str, list[InferredRole]]:
    """Return each tensor with the others of its modules.

    Biases are often drawn by their matrix's fan-in.
    """
    held: dict[int, list[InferredRole]] = {}
    for item in items:
        for use, _ in item.uses:
            held.setdefault(id(use.module), []).append(item)
    return {
        item.name: [item, *(o for use, _ in item.uses for o in held[id(use.module)] if o is not item)] for item in items
    }


def _sides(neighbours: Sequence[InferredRole]) -> list[tuple[int, int]]:
    """Return pairs of sizes that differ between model and base."""
    return [pair for item in neighbours for pair in zip(item.shape, item.base_shape, strict=True) if pair[0] != pair[1]]


def _nearest_law(measured: float, sides: Sequence[tuple[int, int]], error: float, known: Sequence[float]) -> float:
    """Return the neighbours' law, the nearest usual law, or the measured one.

    A law counts if it is within `error` of the measured one in logarithm.
    """
    laws = [1.0, *((new / old) ** -power for new, old in sides for power in (0.5, 1.0))]
    laws += [((a + b) / (c + d)) ** -0.5 for a, c in sides[:2] for b, d in sides[:2]]

    def distance(law: float) -> float:
        return abs(math.log(law / measured))

    if known and distance(known[0]) <= error:
        return known[0]
    nearest = min(laws, key=distance)
    return nearest if distance(nearest) <= error else measured


def root_mean_square(x: Tensor) -> float:
    """Return the root mean square of a tensor's entries, computed in float64."""
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) / float(x.numel() ** 0.5)


def _alike(x: Tensor) -> bool:
    return bool((x == x.flatten()[0]).all())


def _unsharded(x: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded over processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return x
    from torch.distributed.tensor import DTensor

    return x.full_tensor() if isinstance(x, DTensor) else x
