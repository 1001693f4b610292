"""Sweeps, presets and templates that come with the package.

Folders of the same name in the current directory come first.
"""

from __future__ import annotations

from pathlib import Path


def resource_folders(kind: str) -> list[Path]:
    """Return the folders of one kind, the user's before the package's.

    A wheel contains the package's folders; in a checkout they are next to the package.

    Args:
        kind: "sweeps" or "configs".
    """
    package = Path(__file__).parents[1]
    in_wheel = package / "_share" / kind
    of_package = in_wheel if in_wheel.is_dir() else package.parent / kind
    of_user = Path.cwd() / kind
    if of_user.is_dir() and of_user.resolve() != of_package.resolve():
        return [of_user, of_package]
    return [of_package]


def templates() -> dict[str, Path]:
    """Return the paths of the sweep files for `hptransfer init`, by kind."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "templates").glob("*.yaml"))}
