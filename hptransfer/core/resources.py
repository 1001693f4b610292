"""Where sweeps and presets lie: the current directory's own first, then those of the package."""

from __future__ import annotations

from pathlib import Path


def resource_folders(kind: str) -> list[Path]:
    """Folders of one kind ("sweeps" or "configs"), the user's before the package's.

    A wheel carries the package's inside itself; a checkout has them beside the package.
    """
    package = Path(__file__).parents[1]
    inside = package / "_share" / kind
    shipped = inside if inside.is_dir() else package.parent / kind
    here = Path.cwd() / kind
    return [here, shipped] if here.is_dir() and here.resolve() != shipped.resolve() else [shipped]


def templates() -> dict[str, Path]:
    """Sweep files to start from, by kind."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "templates").glob("*.yaml"))}
