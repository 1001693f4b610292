"""What a verb is, and what several of them share: the console, the argument RUN and the folder it names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.core.errors import RunFolderError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from hptransfer.core.run_folder import RunFolder


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    interrupted: str = "finished trials are kept, the same command goes on"
    """What is left of one that was interrupted."""


def make_console() -> Console:
    """What tables are printed on: as wide as the terminal, or 160 columns where there is none."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1
            raise BrokenPipeError

    return Terminal() if sys.stdout.isatty() else Terminal(width=160)


def takes_run(parser: argparse.ArgumentParser) -> None:
    """Adds the argument RUN; `run_folder` finds what it names."""
    parser.add_argument("run", metavar="RUN")


def run_folder(run: str) -> RunFolder:
    """A run's folder by path or by name under runs/.

    Raises:
        RunFolderError: there is none, or it is somebody else's.
    """
    from hptransfer.core.permissions import restrict_umask
    from hptransfer.core.run_folder import RunFolder

    for path in (Path(run), Path("runs") / run):
        try:
            if (path / "sweep.yaml").is_file():
                next(path.iterdir())
                restrict_umask(path)
                return RunFolder(path)
        except PermissionError:
            raise RunFolderError(
                f"{path} may not be read by you; its owner can give it to a group of you both with share=GROUP"
            ) from None
    known = [path.parent.name for path in Path("runs").glob("*/sweep.yaml")]
    raise RunFolderError(f"{unknown('run', run, known)} (folders under runs/, or a path)")
