"""Verb of the command line, the argument RUN, and the console."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hptransfer.core.errors import ConfigError, RunFolderError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from hptransfer.core.run_folder import RunFolder


@dataclass(frozen=True)
class Verb:
    """Verb of the command line.

    Attributes:
        summary: one line for the help.
        arguments: adds the verb's arguments to its parser.
        run: runs the verb and returns the exit code.
        interrupted: note about the results after an interruption.
    """

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    interrupted: str = "finished trials are kept, and the same command resumes the run"


def make_console() -> Console:
    """Return a console as wide as the terminal, otherwise 160 columns."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1
            raise BrokenPipeError

    return Terminal() if sys.stdout.isatty() else Terminal(width=160)


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument RUN, which `run_folder` resolves."""
    parser.add_argument("run", metavar="RUN", help="folder or name of a run")


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --trust, for `require_trust`."""
    parser.add_argument("--trust", action="store_true", help="run what a folder of someone else says (docs/trust.md)")


def add_columns_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --columns, which `read_columns` reads."""
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="columns whose names differ, such as lr=config/lr,width=n_embd",
    )


def read_columns(words: Sequence[str]) -> dict[str, str]:
    """Return the table's columns by name, from NAME=COLUMN,... or several words.

    Raises:
        ConfigError: a part has no name or no column, or a name is given twice.
    """
    names: dict[str, str] = {}
    for part in ",".join(words).split(",") if words else ():
        name, _, column = (text.strip() for text in part.partition("="))
        if not (name and column):
            raise ConfigError(
                f"--columns must be NAME=COLUMN,..., such as lr=config/lr, got {part!r}; a column with a comma in "
                "its name must be renamed in the table"
            )
        if names.setdefault(name, column) != column:
            raise ConfigError(f"--columns {name} is given twice, as {names[name]} and {column}; give it once")
    return names


def run_folder(run: str) -> RunFolder:
    """Find a run's folder by path, or by name under runs/.

    Raises:
        RunFolderError: the folder does not exist, or the user may not read it.
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
                f"{path} may not be read by you; its owner can share it with a group of both users by share=GROUP"
            ) from None
    known = [path.parent.name for path in Path("runs").glob("*/sweep.yaml")]
    raise RunFolderError(f"{unknown('run', run, known)} (folders under runs/, or a path)")
