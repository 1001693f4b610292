"""Detection of embeddings that a forward pass uses as readouts by calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role
from hptransfer.training.user_model.parameterized import Parameterized
from hptransfer.training.user_model.roles import parameters

PRODUCTS = (
    *(F.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum, torch.tensordot),
    *(Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.__matmul__, Tensor.__rmatmul__),
)


class NoHiddenReadouts(TorchFunctionMode):
    """Mode that raises ConfigError where an embedding is used in a product.

    The embedding, or its transpose, then acts as a readout without being one as a module.
    """

    def __init__(self, parameterized: Parameterized) -> None:
        super().__init__()
        present = parameters(parameterized.model)
        self.tables = {
            id(present[name]): name
            for name, parameter in parameterized.tuned.items()
            if parameter.item.lookup and all(role is Role.INPUT for _, role in parameter.item.uses)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            for x in _tensors_in([*args, *(kwargs or {}).values()]):
                name = self.tables.get(id(x if x._base is None else x._base))
                if name is not None:
                    raise ConfigError(
                        f"{name} is an embedding, and by a call of {func.__name__} a readout too, whose multiplier "
                        "would be missing: tie them as modules, head = nn.Linear(...) and head.weight = "
                        "embedding.weight, and call head"
                    )
        return func(*args, **(kwargs or {}))


def _tensors_in(given: Any) -> Iterator[Tensor]:
    for x in given:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, tuple | list):
            yield from _tensors_in(x)
