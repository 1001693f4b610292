"""Arguments with names in braces, such as "--lr={lr}": filled in one by one, so that no shell ever reads a value."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.records import Number

TemplateValue = Number | str


def names_in(template: str, place: str) -> set[str]:
    """The names that an argument holds in braces.

    Raises:
        ConfigError: braces that hold no plain name.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        parts = [("", "", None, None)]
    names = set()
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ConfigError(
                f"{place}: {template!r} has braces around what is no name; write {{{{ and }}}} for braces"
            )
        names.add(name)
    return names


def check_names(template: str, known: Mapping[str, object], place: str) -> None:
    """Raises ConfigError for a name in braces that there is not."""
    for name in sorted(names_in(template, place) - known.keys()):
        raise ConfigError(f"{place}: {unknown('name', name, known)} (in {template!r})")


def fill_template(template: str, values: Mapping[str, TemplateValue]) -> str:
    """The argument with its names replaced; numbers are written exactly."""
    return template.format(**{name: format_value(value) for name, value in values.items()})


def format_value(value: TemplateValue) -> str:
    """A value as a script reads it: a float comes back from it to the last bit."""
    return value if isinstance(value, str) else repr(value)
