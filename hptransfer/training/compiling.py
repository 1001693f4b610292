"""torch.compile of a stack's losses, by the machine's compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError

Losses = Callable[[Tensor, Tensor], Tensor]


def compile_losses(losses: Losses) -> Losses:
    """Return the losses' function, compiled at its first call.

    Inputs must keep one shape. Functions compiled before in this process are discarded: torch keeps few versions of a
    function, and runs further ones uncompiled without a warning.

    Raises:
        ConfigError: by the returned function, if compiling fails here.
    """
    torch.compiler.reset()
    compiled_losses: Losses = torch.compile(losses, dynamic=False)

    def call(inputs: Tensor, targets: Tensor) -> Tensor:
        try:
            return compiled_losses(inputs, targets)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().partition("\n")[0]
            raise ConfigError(
                f"run.compile is true, but torch.compile failed ({reason}); it needs a C++ compiler, and triton for a "
                "GPU: install them, or set run.compile=false"
            ) from error

    return call
