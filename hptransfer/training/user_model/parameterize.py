"""`parameterize`: any nn.Module under a parameterization, its code unchanged.

    parameterized = hptransfer.parameterize(model, make=make, base=128, optimizer="adamw", lr=2**-7)
    optimizer = torch.optim.AdamW(parameterized)

Roles come from shapes (`roles`), numbers from the parameterization's table and the optimizer's law (`rules`). Initial
values are rescaled (`initial_values`), multipliers are hooks (`multipliers`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Required, TypedDict

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import Role, alignment_of
from hptransfer.training.optimizers import OptimizerConfig
from hptransfer.training.user_model.branches import branch_parameters, branches_of
from hptransfer.training.user_model.multipliers import check_untouched, multiply, multiply_branch
from hptransfer.training.user_model.parameterized import Parameterized
from hptransfer.training.user_model.roles import growing_heads, infer_roles
from hptransfer.training.user_model.rules import (
    Rules,
    TunedParameter,
    base_sizes,
    branch_rule,
    budget_rule,
    checked_roles,
    optimizer_config,
    table_by_name,
)

DEFAULT_PARAMETERIZATION = "mup"
DRAWING_METHODS = (Tensor.normal_, Tensor.uniform_)


class Choices(TypedDict, total=False):
    """Arguments of `parameterize` except models and the base, for wrappers."""

    optimizer: Required[str]
    lr: Required[float]
    settings: Mapping[str, Any] | None
    parameterization: str
    alignment: str | float
    roles: Mapping[str, str | Role] | None
    depth: int | None
    alpha: float
    branches: Sequence[str]
    blocks: Sequence[str] | None
    budget: str
    batch_size: int | None
    tokens: int | None


def parameterize(
    model: nn.Module,
    *,
    make: Callable[[int], nn.Module],
    base: int | Mapping[str, int],
    optimizer: str,
    lr: float,
    settings: Mapping[str, Any] | None = None,
    parameterization: str = DEFAULT_PARAMETERIZATION,
    alignment: str | float = "default",
    roles: Mapping[str, str | Role] | None = None,
    depth: int | None = None,
    alpha: float = 0.0,
    branches: Sequence[str] = (),
    blocks: Sequence[str] | None = None,
    budget: str = "none",
    batch_size: int | None = None,
    tokens: int | None = None,
    rescale: bool = True,
) -> Parameterized:
    """Put a model under a parameterization.

    Initial values are rescaled, multipliers are installed, and groups are resolved. At the base size nothing changes,
    to the last bit. Before or after the call, the model may be sharded (`fully_shard`), compiled, or wrapped in
    DistributedDataParallel or checkpointing. Iterate over the result for the optimizer's groups.

    Args:
        make: builds the same model at a given width. It is called on the meta device, at the base's width and at twice
            that. If there are initial values to rescale, it is called once more at the base's width, with values.
        base: width at which every factor is 1, or a dictionary of it with the base's `depth`, `batch_size` and
            `tokens`.
        optimizer, lr, settings: as under run.optimizer in a sweep: `lr` is the peak at the base, `settings` the others
            (weight_decay, beta1, eps, ...). "adam" is torch's, without weight decay.
        parameterization, alignment: as run.parameterization and run.alignment in a sweep.
        roles: roles by glob of parameter names, where shapes do not determine them.
        depth, alpha: depth of this model, and exponent of the depth rule m_L^-alpha with m_L = depth over the base's.
        branches: globs of modules whose outputs are added to the residual stream; required under a depth rule, the same
            number in each layer.
        blocks: globs of modules all of whose parameters belong to a branch, such as norms before it.
        budget, batch_size, tokens: rule for batch and tokens over the base's: none, sqrt or complete.
        rescale: False for values that come from a checkpoint of a parameterized model.

    Raises:
        ConfigError: a role or size cannot be determined, or arguments contradict each other.
    """
    _check_given(model, make)
    sizes = base_sizes(base)
    table = table_by_name(parameterization)
    rules = Rules(
        table=table,
        optimizer=optimizer_config(optimizer, lr, settings or {}, table),
        alignment=alignment_of(alignment, "alignment"),
        branch=branch_rule(alpha, depth, sizes.get("depth"), branches, blocks),
        budget=budget_rule(budget, batch_size, tokens, sizes),
    )
    width = sizes["width"]
    narrow, wide = _built(make, width), _built(make, 2 * width)
    check_untouched(model)
    items = infer_roles(model, narrow, wide, checked_roles(roles))
    for line in growing_heads(narrow, wide):
        warnings.warn(
            f"heads widen: {line} (widths {width} and {2 * width}). Attention logits must then be divided by the "
            "head's size instead of its root, which cannot be checked here; or keep the size and let their number grow",
            stacklevel=2,
        )
    branch_modules = branches_of(model, branches, depth)
    inside = branch_parameters(model, items, branch_modules, blocks)
    tuned = {item.name: rules.tuned(item, inside=item.name in inside) for item in items}
    _check_possible(tuned, rules.optimizer)
    _install(tuned, branch_modules, rules.branch.factor)
    parameterized = Parameterized(
        model=model,
        tuned=tuned,
        branches=dict.fromkeys(branch_modules, rules.branch.factor),
        optimizer=rules.optimizer,
        record={"parameterization": parameterization, "alignment": alignment, "base": sizes, **rules.to_json()},
        make_base=lambda: make(width),
        waiting=rescale,
    )
    if rescale and not any(parameter.is_meta for parameter in model.parameters()):
        parameterized.rescale_initial_values()
    return parameterized


def _check_given(model: object, make: object) -> None:
    """Raise ConfigError unless `model` is a model and `make` is callable."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model must be an nn.Module, got {_describe_value(model)}; build it first, as make(width) does"
        )
    if not callable(make):
        raise ConfigError(
            f"make must build the model at a width, got {_describe_value(make)}; give one such as "
            "lambda width: Model(width)"
        )


def _describe_value(value: object) -> str:
    return f"{type(value).__name__} {str(value).splitlines()[0][:40] if str(value) else ''}".rstrip()


def _install(tuned: Mapping[str, TunedParameter], branches: Mapping[str, nn.Module], factor: float) -> None:
    for parameter in tuned.values():
        for use, _ in parameter.item.uses:
            multiply(use.module, parameter.multipliers[use.name])
    for branch in branches.values():
        multiply_branch(branch, factor)


class _WithoutDraws(TorchFunctionMode):
    """Skip the drawing of values, which meta tensors do not have.

    Torch would import its compiler for it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DRAWING_METHODS else func(*args, **(kwargs or {}))


def _built(make: Callable[[int], nn.Module], width: int) -> nn.Module:
    """Build the model's shapes at a width."""
    try:
        with torch.device("meta"), _WithoutDraws():
            model = make(width)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"make({width}) fails on the meta device, where only shapes are: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"make({width}) must return the model, an nn.Module, and returns {_describe_value(model)}")
    return model


def _check_possible(tuned: Mapping[str, TunedParameter], optimizer: OptimizerConfig) -> None:
    """Raise ConfigError for multipliers and shapes that cannot be handled.

    No hook can apply such multipliers; an optimizer of matrices cannot train such shapes.
    """
    unhookable = [
        f"{parameter.item.name} ({type(use.module).__name__})"
        for parameter in tuned.values()
        for use, _ in parameter.item.uses
        if parameter.multipliers[use.name] != 1.0 and not (use.called and use.layer)
    ]
    if unhookable:
        raise ConfigError(
            f"this parameterization multiplies the outputs of these, which no hook can do: {', '.join(unhookable)}; "
            "hold them in an nn.Linear, convolution or nn.Embedding that is called, or take "
            "parameterization=mup_table3, which has no multipliers"
        )
    not_matrices = [
        f"{parameter.item.name} ({parameter.item.role.value}, {'x'.join(map(str, parameter.item.shape))})"
        for parameter in tuned.values()
        if _trains_as_matrix(optimizer, parameter) and len(parameter.item.shape) != 2
    ]
    if not_matrices:
        raise ConfigError(
            f"optimizer={optimizer.name} trains matrices of two sides, which these are not: {', '.join(not_matrices)}; "
            "take optimizer=adamw"
        )


def _trains_as_matrix(optimizer: OptimizerConfig, parameter: TunedParameter) -> bool:
    """Test if the optimizer's own step trains a parameter.

    Otherwise AdamW's step does.
    """
    return parameter.item.role is Role.HIDDEN if optimizer.name == "muon" else "damping" in parameter.settings
