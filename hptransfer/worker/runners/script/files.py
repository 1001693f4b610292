"""Files that a script reads, rendered for each trial from templates.

A template is the trainer's own file with names in double braces, `lr = {{ lr }}`, as Jinja writes them: single braces
belong to the syntax of TOML, YAML and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.core.command_templates import TemplateValue
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.io import is_file, write_bytes
from hptransfer.core.redaction import redacted, without_literals
from hptransfer.worker.runners.script.config import ScriptConfig

if TYPE_CHECKING:
    from jinja2 import Environment

RENDERED = "files"
"""Folder of the rendered files, below the trial's own: no name of them is that of a file of the trial."""


def rendered_paths(config: ScriptConfig, trial_folder: Path) -> dict[str, Path]:
    """Return the path of each rendered file, which keeps its template's suffix."""
    return {key: trial_folder / RENDERED / f"{key}{Path(path).suffix}" for key, path in config.files.items()}


def template_paths(run: Mapping[str, Any], directory: Path) -> dict[str, Path]:
    """Return the templates of a run by the text that names them.

    Args:
        directory: working directory of the script.
    """
    return {template: directory / template for template in run.get("files", {}).values()}


def check_templates(config: ScriptConfig, known: Mapping[str, object]) -> set[str]:
    """Return the names that the templates use.

    Args:
        known: all names that a template may use.

    Raises:
        ConfigError: a template cannot be read, is malformed, holds a secret or uses an unknown name.
    """
    used: set[str] = set()
    for key, path in config.files.items():
        place = f"run.files.{key}"
        text = _template_text(place, path, Path(config.cwd))
        if redacted(text) != text or without_literals(text) != text:
            raise ConfigError(
                f"{place}: {path} holds a secret, which would stay in the folder of every trial; let the script read "
                "it from a variable of run.environment"
            )
        for name, line in _names_in(text, place, path):
            if name not in known:
                raise ConfigError(f"{place}: {unknown('name', name, known)} ({path}, line {line})")
            used.add(name)
    return used


def render_files(config: ScriptConfig, directory: Path, trial_folder: Path, names: Mapping[str, TemplateValue]) -> None:
    """Write a trial's files.

    Args:
        directory: working directory of the script, to which the templates are relative.
        names: values of all names.

    Raises:
        ConfigError: a template cannot be read, or has no value with these names.
    """
    for key, path in rendered_paths(config, trial_folder).items():
        place, template = f"run.files.{key}", config.files[key]
        text = _template_text(place, template, directory)
        try:
            rendered = _environment().from_string(text).render(names)
        except Exception as error:  # an expression of the user's may raise anything
            raise ConfigError(f"{place}: {template} cannot be rendered ({_one_line(error)})") from None
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, rendered.encode())


def format_in_file(value: object) -> object:
    """Format a value for a file; floats keep every bit.

    YAML reads 1e-05 as text, but 1.0e-05 as a number, as TOML and JSON do too.
    """
    if not isinstance(value, float):
        return value
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else repr(value)


def _template_text(place: str, path: str, directory: Path) -> str:
    if not is_file(directory / path):
        raise ConfigError(f"{place}: there is no file {path!r} in {directory.absolute()}; correct its name or run.cwd")
    try:
        return (directory / path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: {path} cannot be read as text ({_one_line(error)})") from None


def _names_in(text: str, place: str, path: str) -> Iterator[tuple[str, int]]:
    """Yield the names that a template uses, with their first lines."""
    from jinja2 import TemplateSyntaxError, meta, nodes

    environment = _environment()
    try:
        environment.from_string(text)  # an unknown filter is found as it is compiled
        tree = environment.parse(text)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"{place}: {path}, line {error.lineno} is not a template ({_one_line(error)}); names are written as "
            "{{ name }}, and {{ '{{' }} is a double brace"
        ) from None
    lines = {node.name: node.lineno for node in reversed(list(tree.find_all(nodes.Name)))}
    for name in sorted(meta.find_undeclared_variables(tree), key=lambda name: lines[name]):
        yield name, lines[name]


@cache
def _environment() -> Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, finalize=format_in_file, keep_trailing_newline=True, autoescape=False
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
