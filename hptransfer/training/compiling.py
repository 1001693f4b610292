"""torch.compile of what a stack trains with, by whatever compiler the machine has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError

Losses = Callable[[Tensor, Tensor], Tensor]


def compiled(losses: Losses) -> Losses:
    """Losses of one batch, for inputs of one shape, compiled at the first call.

    What was compiled before in this process is forgotten: torch keeps few versions of a function, and runs what is
    beyond them as it is, without a word.

    Raises:
        ConfigError: when it is called, as nothing compiles here.
    """
    torch.compiler.reset()
    fast: Losses = torch.compile(losses, dynamic=False)

    def call(inputs: Tensor, targets: Tensor) -> Tensor:
        try:
            return fast(inputs, targets)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().partition("\n")[0]
            raise ConfigError(
                f"run.compile is true, but torch.compile failed ({reason}); it needs a C++ compiler, and triton for a "
                "GPU: install them, or set run.compile=false"
            ) from error

    return call
