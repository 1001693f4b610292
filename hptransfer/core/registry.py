"""Registry of a family's members (models, optimizers, ...), one module each.

A member's name is the stem of its file in the family's folder; files that start with an underscore are not members.
Other packages add members through entry points of the group `hptransfer.<family>`. A member is imported when it is
first requested, so listing a family of PyTorch models does not import PyTorch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from hptransfer.core.errors import ConfigError, unknown

Member = TypeVar("Member")


class Registry(Generic[Member]):
    """Members of one family by name.

    Args:
        family: a member's kind in messages and in entry points, for example "optimizer".
        package: dotted name of the package whose modules are the built-in members.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self.package = package
        self._members: dict[str, Member] = {}

    def register(self, name: str) -> Callable[[Member], Member]:
        """Return a decorator that registers a value as the member `name`."""

        def add(member: Member) -> Member:
            self._members[name] = member
            return member

        return add

    def names(self) -> list[str]:
        """Return the sorted names of all members, without importing them."""
        return sorted({*self._modules(), *self._entry_points(), *self._members})

    def get(self, name: str) -> Member:
        """Return the member `name`.

        Raises:
            ConfigError: the family has no member of that name.
        """
        if name not in self._members:
            if name in self._modules():
                importlib.import_module(f"{self.package}.{name}")
            elif name in self._entry_points():
                self._entry_points()[name].load()
        if name not in self._members:
            raise ConfigError(unknown(self.family, name, self.names()))
        return self._members[name]

    def summary(self, name: str) -> str:
        """Return the first line of the member's docstring, without importing it."""
        if name not in self._modules():
            return f"from {self._entry_points()[name].value}" if name in self._entry_points() else ""
        member = self._folder() / name
        source = member / "__init__.py" if member.is_dir() else member.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        return docstring.partition("\n")[0]

    def _folder(self) -> Path:
        # importlib's find_spec would import the parent packages.
        return Path(__file__).parents[2].joinpath(*self.package.split("."))

    def _modules(self) -> set[str]:
        return {m.name for m in pkgutil.iter_modules([str(self._folder())]) if not m.name.startswith("_")}

    def _entry_points(self) -> Mapping[str, EntryPoint]:
        return _entry_points(f"hptransfer.{self.family}", tuple(sys.path))


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """Return a group's entry points by name.

    They are searched once for a path, as each search reads the metadata of all packages on it.
    """
    return {point.name: point for point in entry_points(group=group)}
