"""Overrides of single keys, applied to a tree of plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.loader import unknown_key


@dataclass(frozen=True)
class Setting:
    """One override of a key.

    Attributes:
        text: as the user wrote it.
        adds: the key may be new (+KEY=VALUE).
        replaces: the key may be new or there already (++KEY=VALUE).
        deletes: the key is removed (~KEY).
    """

    text: str
    key: str
    value: Any
    adds: bool = False
    replaces: bool = False
    deletes: bool = False

    @property
    def value_text(self) -> str:
        """The value as the user wrote it."""
        return self.text.partition("=")[2]


def apply(tree: dict[str, Any], setting: Setting, open_keys: Collection[str]) -> None:
    """Change the tree as an override asks.

    Args:
        open_keys: dotted keys of mappings whose own keys are the user's.

    Raises:
        ConfigError: the key does not exist, or cannot be added or removed.
    """
    parent, _, name = setting.key.rpartition(".")
    may_add = setting.adds or setting.replaces
    node = _made(tree, parent, setting) if may_add else _existing(tree, setting.key, open_keys)
    if setting.deletes:
        if setting.key in open_keys:
            node[name] = {}
            return
        if parent not in open_keys:
            raise ConfigError(f"{setting.key} is always there; give it another value instead")
        del node[name]
        return
    index: Any = int(name) if isinstance(node, list) else name
    old = node[index] if isinstance(node, list) else node.get(name)
    if setting.adds and old is not None and not isinstance(setting.value, Mapping | list):
        raise ConfigError(f"override {setting.text!r}: {setting.key} exists; give it without the +")
    if isinstance(old, dict) and isinstance(setting.value, Mapping):
        for key, value in setting.value.items():
            part = Setting(setting.text, f"{setting.key}.{key}", value, replaces=may_add)
            apply(tree, part, open_keys)
    else:
        node[index] = setting.value


def _existing(tree: dict[str, Any], key: str, open_keys: Collection[str]) -> Any:
    """Return the node that holds the key, which must exist."""
    node: Any = tree
    place = ""
    for part in key.split("."):
        parent, place = node, f"{place}.{part}" if place else part
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise ConfigError(_missing(place, key, node, tree, open_keys))
    return parent


def _missing(place: str, key: str, node: Any, tree: dict[str, Any], open_keys: Collection[str]) -> str:
    """Return one line about a key that does not exist."""
    parent = place.rpartition(".")[0]
    if parent in open_keys and parent not in ("grid", "space"):
        name = key.removeprefix(f"{parent}.")
        return f"{key}: a key that is not in {parent} yet is added with a +, as in '+{parent}.{name}=VALUE'"
    told = unknown_key(place, node if isinstance(node, dict) else [], tree)
    return told if place == key else f"{key}: {told.partition(': ')[2]}"


def _made(tree: dict[str, Any], parent: str, setting: Setting) -> Any:
    """Return the node at a dotted key, creating mappings on the way."""
    node: Any = tree
    for part in parent.split(".") if parent else ():
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            break
    if not isinstance(node, dict):
        raise ConfigError(f"override {setting.text!r}: {parent} has no keys of its own; correct the key")
    return node
