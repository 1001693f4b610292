"""Size of a tree once every ${...} is replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hptransfer.config.yaml_files import Place
from hptransfer.core.errors import ConfigError

MOST_CHARACTERS = 1_000_000
"""Largest size of a sweep with every ${...} replaced, in characters."""
REFERENCE = re.compile(r"\$\{(\.*)([^{}:]+)\}")


def check_size(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError if the tree would grow beyond MOST_CHARACTERS.

    A chain of values that each hold the one before twice doubles with every link.
    """
    sizes: dict[Place, int] = {}

    def size(place: Place) -> int:
        if place not in sizes:
            sizes[place] = 0  # of a value that refers to itself, which the replacement reports
            node = value_at(tree, place)
            if isinstance(node, Mapping | list):
                keys = node if isinstance(node, Mapping) else range(len(node))
                sizes[place] = 1 + sum(size((*place, str(key))) for key in keys)
            else:
                places = (_place(place, *match.groups()) for match in REFERENCE.finditer(str(node)))
                sizes[place] = len(str(node)) + sum(map(size, places))
        return sizes[place]

    if size(()) > MOST_CHARACTERS:
        grown = max(
            (place for place in sizes if isinstance(value_at(tree, place), str)), key=lambda place: sizes[place]
        )
        raise ConfigError(
            f"the values grow beyond {MOST_CHARACTERS:,} characters once every ${{...}} is replaced, for the most part "
            f"at {'.'.join(grown)}; refer to less there"
        )


def value_at(tree: Any, place: Place) -> Any:
    """Return the value at a place; None if there is none."""
    for part in place:
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return None
    return tree


def _place(place: Place, dots: str, key: str) -> Place:
    """Return the place that a reference names.

    Each leading dot is one level up.
    """
    parts = tuple(re.sub(r"\[(\w+)\]", r".\1", key).strip(".").split("."))
    return (*place[: -len(dots)], *parts) if dots else parts
