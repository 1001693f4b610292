"""`parameterize`: any nn.Module under a parameterization, without a word about it in the module's own code.

    parameterized = hptransfer.parameterize(model, make=make, base=128, optimizer="adamw", lr=2**-7)
    optimizer = torch.optim.AdamW(parameterized)

Roles come from shapes (`roles`), numbers from the parameterization's table and the optimizer's law (`resolve`), first
values are rescaled (`initial`), multipliers are hooks (`forward`).
"""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations._base import Role
from hptransfer.parameterizations._rules import alignment_of
from hptransfer.training.foreign.forward import check_untouched, multiply, multiply_branch
from hptransfer.training.foreign.parameterized import Parameterized
from hptransfer.training.foreign.roles import Inferred, growing_heads, infer, plain
from hptransfer.training.foreign.rules import (
    Rules,
    Tuned,
    base_sizes,
    branch_rule,
    budget_rule,
    optimizer_of,
    table_of,
)
from hptransfer.training.optimizers._base import OptimizerConfig

DRAWS = (Tensor.normal_, Tensor.uniform_)


def parameterize(
    model: nn.Module,
    *,
    make: Callable[[int], nn.Module],
    base: int | Mapping[str, int],
    optimizer: str,
    lr: float,
    settings: Mapping[str, Any] | None = None,
    parameterization: str = "mup",
    alignment: str | float = "default",
    roles: Mapping[str, str | Role] | None = None,
    depth: int | None = None,
    alpha: float = 0.0,
    branches: Sequence[str] = (),
    blocks: Sequence[str] | None = None,
    budget: str = "none",
    batch: int | None = None,
    tokens: int | None = None,
    rescale: bool = True,
) -> Parameterized:
    """Puts a model under a parameterization: rescales its first values, installs multipliers, resolves its groups.

    At the base size nothing changes, to the last bit. The model may be sharded (`fully_shard`), compiled, or wrapped in
    DistributedDataParallel or checkpointing before or after; then or later, iterate over what is returned.

    Args:
        make: builds the model, as it is but for its width, at a width; called at the base's and at twice that, on the
            meta device, and once at the base's for real if there are first values to rescale.
        base: the width at which every factor is 1, or that with the base's `depth`, `batch` and `tokens`.
        optimizer, lr, settings: as under run.optimizer in a sweep: `lr` is the peak at the base, `settings` the others
            (weight_decay, beta1, eps, ...). "adam" is torch's, without weight decay.
        roles: by glob of parameter names, where shapes cannot tell.
        depth, alpha: of this model; the depth rule m_L^-alpha with m_L = depth over the base's.
        branches: globs of modules whose outputs are added to the residual stream; needed under a depth rule.
        blocks: globs of modules all of whose parameters belong to a branch, such as norms that stand before it.
        budget, batch, tokens: the rule for batch and tokens over the base's: none, sqrt or complete.
        rescale: False for values that come from a checkpoint of a parameterized model.

    Raises:
        ConfigError: what cannot be told, or does not go together.
    """
    of_base = base_sizes(base)
    table = table_of(parameterization)
    chosen = Rules(
        table=table,
        optimizer=optimizer_of(optimizer, lr, settings or {}, table),
        alignment=alignment_of(alignment, "alignment"),
        branch=branch_rule(alpha, depth, of_base.get("depth"), branches, blocks),
        budget=budget_rule(budget, batch, tokens, of_base),
    )
    width = of_base["width"]
    narrow, wide = _built(make, width), _built(make, 2 * width)
    check_untouched(model)
    items = infer(model, narrow, wide, roles or {})
    for line in growing_heads(narrow, wide):
        warnings.warn(
            f"heads widen: {line} (widths {width} and {2 * width}). Attention logits must then be divided by the "
            "head's size and not its root, which cannot be seen from here; or keep the size, let their number grow",
            stacklevel=2,
        )
    named = _matching(model, branches, "branches")
    inside = _inside(model, items, named, blocks) if named else set()
    tuned = {item.name: chosen.tuned(item, inside=item.name in inside) for item in items}
    _check_possible(tuned, chosen.optimizer)
    for one in tuned.values():
        for use, _ in one.item.uses:
            multiply(use.module, one.multipliers[use.name])
    for branch in named.values():
        multiply_branch(branch, chosen.branch.factor)
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


class _WithoutDraws(TorchFunctionMode):
    """Leaves out the drawing of values, which meta tensors do not have: torch would import its compiler for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


def _built(make: Callable[[int], nn.Module], width: int) -> nn.Module:
    """The model's shapes at a width."""
    try:
        with torch.device("meta"), _WithoutDraws():
            return make(width)
    except Exception as error:
        raise ConfigError(f"make({width}) fails on the meta device, where only shapes are: {error}") from error


def _matching(model: nn.Module, globs: Sequence[str], place: str) -> dict[str, nn.Module]:
    """Modules by name; a * in a glob stays between two dots."""
    names = {plain(name): module for name, module in model.named_modules() if plain(name)}
    found: dict[str, nn.Module] = {}
    for glob in globs:
        parts = glob.split(".")
        fitting = {
            name: module
            for name, module in names.items()
            if len(name.split(".")) == len(parts) and all(map(fnmatch.fnmatchcase, name.split("."), parts))
        }
        if not fitting:
            raise ConfigError(f"{place}: {glob!r} matches no module; there are {', '.join(list(names)[:6])}, ...")
        found |= fitting
    return found


def _inside(
    model: nn.Module, items: Sequence[Inferred], branches: Mapping[str, nn.Module], blocks: Sequence[str] | None
) -> set[str]:
    """Parameters that belong to a residual branch.

    Raises:
        ConfigError: some stand beside a branch in its block, and it is not said whether they belong to it.
    """
    whole = [*branches, *_matching(model, blocks or (), "blocks")]
    inside = {item.name for item in items if item.name.startswith(tuple(f"{name}." for name in whole))}
    around = {name.rpartition(".")[0] for name in branches}
    around -= {plain(name) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) or not name}
    beside = [i.name for i in items if i.name not in inside and i.name.startswith(tuple(f"{a}." for a in around))]
    if blocks is None and beside:
        raise ConfigError(
            f"beside the branches stand {', '.join(beside)}: name the modules all of whose parameters belong to a "
            "branch by blocks=[glob], as norms before one do, such as ['blocks.*']; or blocks=[] if none does"
        )
    return inside


def _check_possible(tuned: Mapping[str, Tuned], optimizer: OptimizerConfig) -> None:
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


def _of_matrices(optimizer: OptimizerConfig, one: Tuned) -> bool:
    """Whether the optimizer's own step, and not AdamW's, trains a parameter."""
    return one.item.role is Role.HIDDEN if optimizer.name == "muon" else "damping" in one.settings
