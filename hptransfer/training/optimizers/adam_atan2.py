"""Adam-atan2: Adam with an arctangent instead of epsilon (arXiv:2407.05872)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hptransfer.training.optimizers import OPTIMIZERS, DecoupledDecay, TwoBetasConfig


@OPTIMIZERS.register("adam_atan2")
@dataclass(kw_only=True)
class AdamAtan2Config(TwoBetasConfig):
    """Settings of Adam-atan2."""

    name: str = "adam_atan2"
    lr: float = 2.0**-6
    """Peak learning rate at the base; above 0."""
    beta1: float = 0.9
    """Memory of the mean gradient, in [0, 1)."""
    beta2: float = 0.95
    """Memory of the squared gradient, in [0, 1)."""

    def build(self, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
        return [AdamAtan2(self.torch_groups(groups, "decoupled"))]


class Atan2(torch.optim.Optimizer):
    """Optimizer with the step w -= lr * atan2(m, sqrt(v)).

    m and v are Adam's bias-corrected means. Steps are invariant to the loss's scale.
    """

    def __init__(self, params: list[dict[str, Any]]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            views: list[Tensor] = group["params"]
            states = [self._state(view) for view in views]
            gradients = [view.grad for view in views if view.grad is not None]
            means, squares = [state["mean"] for state in states], [state["square"] for state in states]
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            steps = states[0]["step"] + 1
            for state in states:
                state["step"] = steps
            roots = torch._foreach_sqrt(squares)
            # The corrections of both means as one factor on the root.
            torch._foreach_mul_(roots, (1 - beta1**steps) / (1 - beta2**steps) ** 0.5)
            for view, mean, root in zip(views, means, roots, strict=True):
                view.add_(torch.atan2(mean, root), alpha=-group["lr"])

    def _state(self, view: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[view]
        if not state:
            state.update(step=0, mean=torch.zeros_like(view), square=torch.zeros_like(view))
        return state


class AdamAtan2(DecoupledDecay, Atan2):
    """Adam-atan2 with AdamW's weight decay."""
