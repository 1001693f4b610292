"""Command-line arguments with names in braces, such as "--lr={lr}".

Each argument is filled in by itself, and no shell ever reads a value. References to variables of the environment, such
as ${oc.env:WANDB_API_KEY}, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.records import Number
from hptransfer.core.redaction import REFERENCE

TemplateValue = Number | str


def names_in(template: str, key: str) -> set[str]:
    """Return the names in braces of an argument.

    Raises:
        ConfigError: braces hold something other than a plain name.
    """
    try:
        parts = list(Formatter().parse(REFERENCE.sub("", template)))
    except ValueError:
        parts = [("", "", None, None)]
    names = set()
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ConfigError(
                f"{key}: {template!r} has braces around something that is not a name; write {{{{ and }}}} for braces"
            )
        names.add(name)
    return names


def check_names(template: str, known: Mapping[str, object], key: str) -> None:
    """Raise ConfigError unless every name in braces is known."""
    for name in sorted(names_in(template, key) - known.keys()):
        raise ConfigError(f"{key}: {unknown('name', name, known)} (in {template!r})")


def fill_template(template: str, values: Mapping[str, TemplateValue]) -> str:
    """Replace the names in braces by their values; numbers are written exactly."""
    texts = {name: format_value(value) for name, value in values.items()}
    filled, end = "", 0
    for reference in REFERENCE.finditer(template):
        filled += template[end : reference.start()].format(**texts) + reference[0]
        end = reference.end()
    return filled + template[end:].format(**texts)


def format_value(value: TemplateValue) -> str:
    """Format a value for a script; floats keep every bit."""
    return value if isinstance(value, str) else repr(value)
