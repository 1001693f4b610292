"""A family of things (models, optimizers, samplers, ...): one file or package each, found by name.

`ls` of the family's folder is the menu: a member's name is its file's stem, and files that start
with an underscore are not members. Members of other packages come in through entry points of the
group `hptransfer.<family>`. Nothing is imported until a member is asked for, so that listing a
family of PyTorch models does not import PyTorch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from hptransfer.core.errors import ConfigError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """The members of one family.

    Args:
        family: what the members are called in messages and in entry points, for example "optimizer".
        package: dotted name of the package whose modules are the built-in members.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self.package = package
        self._members: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator (or call) that makes a value the member `name`."""

        def add(member: T) -> T:
            self._members[name] = member
            return member

        return add

    def names(self) -> list[str]:
        """Names of all members, sorted; imports none of them."""
        return sorted({*self._modules(), *self._entry_points(), *self._members})

    def get(self, name: str) -> T:
        """The member `name`.

        Raises:
            ConfigError: there is no such member.
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
        """First line of the member's module docstring, read without importing the module."""
        if name not in self._modules():
            return f"from {self._entry_points()[name].value}" if name in self._entry_points() else ""
        member = self._folder() / name
        source = member / "__init__.py" if member.is_dir() else member.with_suffix(".py")
        docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        return docstring.partition("\n")[0]

    def _folder(self) -> Path:
        # The path is worked out by hand: importlib's find_spec would import the parent packages.
        return Path(__file__).parents[2].joinpath(*self.package.split("."))

    def _modules(self) -> set[str]:
        return {m.name for m in pkgutil.iter_modules([str(self._folder())]) if not m.name.startswith("_")}

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"hptransfer.{self.family}")}
