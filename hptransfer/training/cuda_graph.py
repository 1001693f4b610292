"""Updates of a stack as a CUDA graph, recorded once and replayed.

A proxy's step is hundreds of kernels that each take a GPU a few microseconds, less than Python needs to launch one.
A graph is the same kernels on the same addresses, so its numbers are those of ordinary steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError

Update = Callable[[Tensor, Tensor], Tensor]
"""Function of inputs and targets that updates the weights and returns the losses."""

# Not recorded: the first step creates the optimizer's state, which a graph would create in every step.
FIRST_STEPS = 2


class RecordedUpdate:
    """Update that is recorded at its third call and then replayed.

    The shapes of inputs and targets never change. Everything else that changes between steps must be in tensors on the
    GPU.
    """

    def __init__(self, update: Update) -> None:
        self._update = update
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs = self._targets = self._losses = torch.empty(0)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Run the update and return its losses.

        Raises:
            ConfigError: the update cannot be recorded.
        """
        if self._calls < FIRST_STEPS:
            self._calls += 1
            return self._update(inputs, targets)
        if self._graph is None:
            self._graph = self._record(inputs, targets)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        return self._losses.clone()

    def _record(self, inputs: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        self._inputs, self._targets = torch.empty_like(inputs), torch.empty_like(targets)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._losses = self._update(self._inputs, self._targets)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error.__context__ or error).strip().partition("\n")[0]
            raise ConfigError(
                f"run.cuda_graph is true, but a step of this model and optimizer cannot be recorded ({reason}); "
                "set run.cuda_graph=false"
            ) from error
        return graph
