"""Folders of sweeps and presets: the current directory's, then the package's."""

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
    shipped = in_wheel if in_wheel.is_dir() else package.parent / kind
    users = Path.cwd() / kind
    return [users, shipped] if users.is_dir() and users.resolve() != shipped.resolve() else [shipped]


def templates() -> dict[str, Path]:
    """Return the paths of the sweep files for `hptransfer init`, by kind."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "templates").glob("*.yaml"))}
