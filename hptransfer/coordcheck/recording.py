"""Recording of module outputs during a forward pass, for every coordinate check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

TensorReader = Callable[[str, Tensor], Tensor | None]
"""Function of a module's name and of its output, detached, that returns the tensor to record; None skips it."""


@contextmanager
def recorded(
    outputs: Mapping[str, nn.Module],
    *,
    inputs: Mapping[str, nn.Module] | None = None,
    read: TensorReader = lambda name, x: x,
) -> Iterator[dict[str, Tensor]]:
    """Record outputs of modules by name while the context is open.

    A module that returns a tuple is recorded by the tuple's first element. Further uses of a module are numbered:
    "name", "name #2" and so on.

    Args:
        outputs: modules whose outputs are recorded, by name.
        inputs: modules whose first input is recorded, by name.
        read: tensor to record of an output or input, such as a copy or another layout.
    """
    tensors: dict[str, Tensor] = {}
    uses: dict[str, int] = {}

    def note(name: str, value: Any) -> None:
        x = value[0] if isinstance(value, tuple) else value
        if isinstance(x, Tensor) and (kept := read(name, x.detach())) is not None:
            uses[name] = uses.get(name, 0) + 1
            tensors[name if uses[name] == 1 else f"{name} #{uses[name]}"] = kept

    def note_output(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        note(name, output)

    def note_input(name: str, module: nn.Module, arguments: Any) -> None:
        note(name, arguments)

    handles = [module.register_forward_hook(partial(note_output, name)) for name, module in outputs.items()]
    handles += [module.register_forward_pre_hook(partial(note_input, name)) for name, module in (inputs or {}).items()]
    try:
        yield tensors
    finally:
        for handle in handles:
            handle.remove()
