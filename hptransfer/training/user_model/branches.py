"""Residual branches of anybody's model: which modules they are, and which parameters belong to them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence

from torch import nn

from hptransfer.core.errors import ConfigError
from hptransfer.training.user_model.roles import InferredRole, plain


def branches_of(model: nn.Module, globs: Sequence[str], depth: int | None) -> dict[str, nn.Module]:
    """The model's residual branches by name; none without globs.

    Raises:
        ConfigError: a glob that matches nothing, a branch inside a branch, blocks without the branches that their likes
            have, or a number of branches that does not go with the depth.
    """
    found = _matching(model, globs, "branches")
    if not found or depth is None:
        return {}
    nested = [f"{name} in {outer}" for name in found for outer in found if name.startswith(f"{outer}.")]
    if nested:
        raise ConfigError(
            f"branches inside branches would be multiplied twice: {', '.join(nested)}; name the outer or the inner ones"
        )
    left = [name for name in _likes(model, found) if name not in found]
    if left:
        raise ConfigError(
            f"branches has {', '.join(_some(list(found)))} but not {', '.join(_some(left))}, in other blocks of the "
            "same stack; name those of every block by one glob, as in 'blocks.*.attention'"
        )
    if len(found) % depth:
        raise ConfigError(
            f"depth={depth} does not go with {len(found)} branches ({', '.join(_some(list(found)))}): as many belong "
            "to each layer, so that their number is a multiple of depth; mend depth or branches"
        )
    return found


def belonging(
    model: nn.Module, items: Sequence[InferredRole], branches: Mapping[str, nn.Module], blocks: Sequence[str] | None
) -> set[str]:
    """Parameters that belong to a residual branch.

    Raises:
        ConfigError: some stand beside a branch in its block, and it is not said whether they belong to it.
    """
    if not branches:
        return set()
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


def repeated(name: str) -> str:
    """A module's name with * for its numbers: what blocks of one stack have in common."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", name)


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


def _likes(model: nn.Module, branches: Mapping[str, nn.Module]) -> list[str]:
    """Modules of the branches' names in any block; a name that ends in a number says nothing of what it is."""
    kinds = {repeated(name) for name in branches if not name.rpartition(".")[2].isdigit()}
    return [plain(name) for name, _ in model.named_modules() if repeated(plain(name)) in kinds]


def _some(names: Sequence[str]) -> list[str]:
    return [*names[:4], "..."] if len(names) > 4 else list(names)
