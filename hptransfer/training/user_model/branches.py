"""Residual branches of a user's model, and their parameters."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence

from torch import nn

from hptransfer.core.errors import ConfigError
from hptransfer.training.user_model.roles import InferredRole, plain_name


def branches_of(model: nn.Module, globs: Sequence[str], depth: int | None) -> dict[str, nn.Module]:
    """Return the model's residual branches by name; none without globs.

    Raises:
        ConfigError: a glob matches nothing, or a branch is inside another. A block lacks branches that similar blocks
            have, or the number of branches does not fit the depth.
    """
    branches = _matching(model, globs, "branches")
    if not branches or depth is None:
        return {}
    nested = [f"{name} in {outer}" for name in branches for outer in branches if name.startswith(f"{outer}.")]
    if nested:
        raise ConfigError(
            f"branches inside branches would be multiplied twice: {', '.join(nested)}; name the outer or the inner ones"
        )
    missing = [name for name in _counterparts(model, branches) if name not in branches]
    if missing:
        raise ConfigError(
            f"branches has {', '.join(_some(list(branches)))} but not {', '.join(_some(missing))}, in other blocks of "
            "the same stack; name those of every block by one glob, as in 'blocks.*.attention'"
        )
    if len(branches) % depth:
        raise ConfigError(
            f"depth={depth} does not fit {len(branches)} branches ({', '.join(_some(list(branches)))}): each layer has "
            "the same number, so the total must be a multiple of depth; correct depth or branches"
        )
    return branches


def branch_parameters(
    model: nn.Module, items: Sequence[InferredRole], branches: Mapping[str, nn.Module], blocks: Sequence[str] | None
) -> set[str]:
    """Return the names of parameters that belong to a residual branch.

    Raises:
        ConfigError: `blocks` does not decide if parameters next to a branch in its block belong to it.
    """
    if not branches:
        return set()
    branch_modules = [*branches, *_matching(model, blocks or (), "blocks")]
    inside = {item.name for item in items if item.name.startswith(tuple(f"{name}." for name in branch_modules))}
    parents = {name.rpartition(".")[0] for name in branches}
    parents -= {plain_name(name) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) or not name}
    undecided = [
        i.name for i in items if i.name not in inside and i.name.startswith(tuple(f"{parent}." for parent in parents))
    ]
    if blocks is None and undecided:
        raise ConfigError(
            f"next to the branches are {', '.join(undecided)}: name the modules all of whose parameters belong to a "
            "branch, such as norms before it, by blocks=[glob], as in ['blocks.*']; or give blocks=[] if none does"
        )
    return inside


def block_pattern(name: str) -> str:
    """Replace numbers in a module's name by *.

    The result is the same for all blocks of a stack.
    """
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", name)


def _matching(model: nn.Module, globs: Sequence[str], place: str) -> dict[str, nn.Module]:
    """Return the modules that match globs, by name.

    A * in a glob matches no dot.
    """
    names = {plain_name(name): module for name, module in model.named_modules() if plain_name(name)}
    matching: dict[str, nn.Module] = {}
    for glob in globs:
        parts = glob.split(".")
        fitting = {
            name: module
            for name, module in names.items()
            if len(name.split(".")) == len(parts) and all(map(fnmatch.fnmatchcase, name.split("."), parts))
        }
        if not fitting:
            raise ConfigError(f"{place}: {glob!r} matches no module; there are {', '.join(list(names)[:6])}, ...")
        matching |= fitting
    return matching


def _counterparts(model: nn.Module, branches: Mapping[str, nn.Module]) -> list[str]:
    """Return the modules in any block that are named like the branches.

    Names that end in a number are left out, as they do not identify a module's function.
    """
    patterns = {block_pattern(name) for name in branches if not name.rpartition(".")[2].isdigit()}
    return [plain_name(name) for name, _ in model.named_modules() if block_pattern(plain_name(name)) in patterns]


def _some(names: Sequence[str]) -> list[str]:
    return [*names[:4], "..."] if len(names) > 4 else list(names)
