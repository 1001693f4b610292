"""`parameterize`: any nn.Module under a parameterization, without a word about it in the module's own code.

    parameterized = hptransfer.parameterize(model, make=make, base=128, optimizer="adamw", lr=2**-7)
    optimizer = torch.optim.AdamW(parameterized)

Roles come from shapes (`roles`), numbers from the parameterization's table and the optimizer's law (`resolve`), first
values are rescaled (`initial`), multipliers are hooks (`forward`).
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
from hptransfer.training.user_model.branches import belonging, branches_of
from hptransfer.training.user_model.multipliers import check_untouched, multiply, multiply_branch
from hptransfer.training.user_model.parameterized import Parameterized
from hptransfer.training.user_model.roles import growing_heads, infer
from hptransfer.training.user_model.rules import (
    Rules,
    TunedParameter,
    base_sizes,
    branch_rule,
    budget_rule,
    checked_roles,
    optimizer_of,
    table_by_name,
)

DEFAULT = "mup"
DRAWS = (Tensor.normal_, Tensor.uniform_)


class Choices(TypedDict, total=False):
    """What `parameterize` takes beside models and the base, for those who hand it on."""

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
    parameterization: str = DEFAULT,
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
    """Puts a model under a parameterization: rescales its first values, installs multipliers, resolves its groups.

    At the base size nothing changes, to the last bit. The model may be sharded (`fully_shard`), compiled, or wrapped in
    DistributedDataParallel or checkpointing before or after; then or later, iterate over what is returned.

    Args:
        make: builds the model, as it is but for its width, at a width; called at the base's and at twice that, on the
            meta device, and once at the base's for real if there are first values to rescale.
        base: the width at which every factor is 1, or that with the base's `depth`, `batch_size` and
            `tokens`.
        optimizer, lr, settings: as under run.optimizer in a sweep: `lr` is the peak at the base, `settings` the others
            (weight_decay, beta1, eps, ...). "adam" is torch's, without weight decay.
        roles: by glob of parameter names, where shapes cannot tell.
        depth, alpha: of this model; the depth rule m_L^-alpha with m_L = depth over the base's.
        branches: globs of modules whose outputs are added to the residual stream; needed under a depth rule, as many in
            each layer.
        blocks: globs of modules all of whose parameters belong to a branch, such as norms that stand before it.
        budget, batch_size, tokens: the rule for batch and tokens over the base's: none, sqrt or complete.
        rescale: False for values that come from a checkpoint of a parameterized model.

    Raises:
        ConfigError: what cannot be told, or does not go together.
    """
    _check_given(model, make)
    of_base = base_sizes(base)
    table = table_by_name(parameterization)
    chosen = Rules(
        table=table,
        optimizer=optimizer_of(optimizer, lr, settings or {}, table),
        alignment=alignment_of(alignment, "alignment"),
        branch=branch_rule(alpha, depth, of_base.get("depth"), branches, blocks),
        budget=budget_rule(budget, batch_size, tokens, of_base),
    )
    width = of_base["width"]
    narrow, wide = _built(make, width), _built(make, 2 * width)
    check_untouched(model)
    items = infer(model, narrow, wide, checked_roles(roles))
    for line in growing_heads(narrow, wide):
        warnings.warn(
            f"heads widen: {line} (widths {width} and {2 * width}). Attention logits must then be divided by the "
            "head's size and not its root, which cannot be seen from here; or keep the size, let their number grow",
            stacklevel=2,
        )
    named = branches_of(model, branches, depth)
    inside = belonging(model, items, named, blocks)
    tuned = {item.name: chosen.tuned(item, inside=item.name in inside) for item in items}
    _check_possible(tuned, chosen.optimizer)
    _install(tuned, named, chosen.branch.factor)
    found = Parameterized(
        model=model,
        tuned=tuned,
        branches=dict.fromkeys(named, chosen.branch.factor),
        optimizer=chosen.optimizer,
        record={"parameterization": parameterization, "alignment": alignment, "base": of_base, **chosen.to_json()},
        make_base=lambda: make(width),
        waiting=rescale,
    )
    if rescale and not any(parameter.is_meta for parameter in model.parameters()):
        found.rescale_initial_values()
    return found


def _check_given(model: object, make: object) -> None:
    """Raises ConfigError for what is no model, or cannot build one."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be an nn.Module, got {_what(model)}; build it first, as make(width) does")
    if not callable(make):
        raise ConfigError(
            f"make must build the model at a width, got {_what(make)}; give one such as lambda width: Model(width)"
        )


def _what(value: object) -> str:
    return f"{type(value).__name__} {str(value).splitlines()[0][:40] if str(value) else ''}".rstrip()


def _install(tuned: Mapping[str, TunedParameter], branches: Mapping[str, nn.Module], factor: float) -> None:
    for one in tuned.values():
        for use, _ in one.item.uses:
            multiply(use.module, one.multipliers[use.name])
    for branch in branches.values():
        multiply_branch(branch, factor)


class _WithoutDraws(TorchFunctionMode):
    """Leaves out the drawing of values, which meta tensors do not have: torch would import its compiler for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


def _built(make: Callable[[int], nn.Module], width: int) -> nn.Module:
    """The model's shapes at a width."""
    try:
        with torch.device("meta"), _WithoutDraws():
            model = make(width)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"make({width}) fails on the meta device, where only shapes are: {said}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"make({width}) must return the model, an nn.Module, and returns {_what(model)}")
    return model


def _check_possible(tuned: Mapping[str, TunedParameter], optimizer: OptimizerConfig) -> None:
    """Raises ConfigError for multipliers that no hook can apply, and for what an optimizer of matrices cannot take."""
    deaf = [
        f"{one.item.name} ({type(use.module).__name__})"
        for one in tuned.values()
        for use, _ in one.item.uses
        if one.multipliers[use.name] != 1.0 and not (use.called and use.layer)
    ]
    if deaf:
        raise ConfigError(
            f"this parameterization multiplies what these put out, which no hook can do: {', '.join(deaf)}; hold "
            "them in an nn.Linear, convolution or nn.Embedding that is called, or take parameterization=mup_table3, "
            "which has no multipliers"
        )
    wrong = [
        f"{one.item.name} ({one.item.role.value}, {'x'.join(map(str, one.item.shape))})"
        for one in tuned.values()
        if _of_matrices(optimizer, one) and len(one.item.shape) != 2
    ]
    if wrong:
        raise ConfigError(
            f"optimizer={optimizer.name} trains matrices of two sides, which these are not: {', '.join(wrong)}; "
            "take optimizer=adamw"
        )


def _of_matrices(optimizer: OptimizerConfig, one: TunedParameter) -> bool:
    """Whether the optimizer's own step, and not AdamW's, trains a parameter."""
    return one.item.role is Role.HIDDEN if optimizer.name == "muon" else "damping" in one.settings
