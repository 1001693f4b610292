"""Files that a script's command names, and their fingerprint."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hptransfer.core.io import file_digest, is_file
from hptransfer.core.records import digest
from hptransfer.worker.runners.script.files import template_paths

GIT_COMMIT_TIMEOUT_S = 10


def fingerprint_of(files: Mapping[str, Path], run: Mapping[str, Any]) -> str:
    """Return a hash of the files, or the commit, and the templates."""
    hashes: dict[str, str | None] = {argument: file_digest(path) for argument, path in files.items()}
    templates = template_paths(run, Path(run["cwd"]))
    of_templates = {f"template {name}": file_digest(path) for name, path in templates.items()}
    return digest((hashes or {"commit": _git_commit(Path(run["cwd"]))}) | of_templates)


def command_files(run: Mapping[str, Any]) -> dict[str, Path]:
    """Return the existing files of the command, by their names in it.

    An argument is a file, or names one after an equals sign, such as --config=FILE. The files must be in the working
    directory.
    """
    folder = Path(run["cwd"]).resolve()
    arguments = [argument for argument in run["command"] if "{" not in argument]
    names = [*arguments, *(argument.partition("=")[2] for argument in arguments)]
    paths = {name: folder / name for name in names if name}
    return {
        argument: path for argument, path in paths.items() if is_file(path) and path.resolve().is_relative_to(folder)
    }


def _git_commit(folder: Path) -> str | None:
    """Return the current commit of a folder; None outside a repository."""
    try:
        process = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GIT_COMMIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
