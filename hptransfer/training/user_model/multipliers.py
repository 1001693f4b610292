"""Multipliers in a user's forward pass, as hooks.

The module's class and its state_dict stay the same. A matrix's multiplier acts on its input, so that a bias is not
multiplied. Multipliers of embeddings and residual branches act on the output. Hooks are objects of this module, so that
models with hooks can be copied and pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from hptransfer.core.errors import ConfigError
from hptransfer.training.user_model.roles import LOOKUPS


@dataclass(frozen=True)
class ScaleInput:
    """Hook that multiplies a module's first input."""

    factor: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0] * self.factor, *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: kwargs[first] * self.factor}


@dataclass(frozen=True)
class ScaleOutput:
    """Hook that multiplies a module's output, or the first of a tuple.

    Attention returns its weights second.
    """

    factor: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return output[0] * self.factor, *output[1:]
        return output * self.factor


def multiply(module: nn.Module, factor: float) -> None:
    """Scale a layer as if its matrix or table were larger.

    Args:
        factor: how many times larger.
    """
    if factor == 1.0:
        return
    if isinstance(module, LOOKUPS):
        module.register_forward_hook(ScaleOutput(factor))
    else:
        module.register_forward_pre_hook(ScaleInput(factor), with_kwargs=True)


def multiply_branch(branch: nn.Module, factor: float) -> None:
    """Multiply a residual branch's output."""
    if factor != 1.0:
        branch.register_forward_hook(ScaleOutput(factor))


def check_untouched(model: nn.Module) -> None:
    """Raise ConfigError if the model already has multipliers.

    They would multiply a second time.
    """
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if any(isinstance(hook, ScaleInput | ScaleOutput) for hook in hooks):
            raise ConfigError(f"the model has been parameterized already ({name} has a multiplier); build a new one")
