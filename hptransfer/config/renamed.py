"""Words of version 0.1: refused in sweep files, translated in run folders.

A sweep file or an override is refused with one line that names the new word. The sweep.yaml of a run folder is
translated, so that a run of version 0.1 stays readable and can be extended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hptransfer.core.errors import ConfigError

SINCE = "since version 0.2"
# Values by key: the old word and the new one.
VALUES = {"scales": {"plus": "one_at_a_time"}, "design": {"plus": "one_at_a_time"}}
# A flag of each part of `space`, and the field and value that replaced it.
OLD_FLAG, NEW_FIELD, NEW_VALUE = "complement", "transform", "one_minus"


def refuse_old_words(values: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first word of version 0.1.

    Args:
        values: a sweep file's content as plain values, before its types are checked.
    """
    for key in VALUES:
        refuse_old_word(key, values.get(key))
    for name, part in _with_flag(values):
        refuse_old_word(f"space.{name}.{OLD_FLAG}", part[OLD_FLAG])


def refuse_old_word(key: str, value: Any) -> None:
    """Raise ConfigError if a dotted key or its value was renamed.

    Args:
        value: given for it; a flag that is off is left out rather than replaced.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            refuse_old_word(f"{key}.{name}", part)
    words = VALUES.get(key, {})
    if isinstance(value, str) and value in words:
        raise ConfigError(f"{key}: {value!r} is called {words[value]!r} {SINCE}; write {key}: {words[value]}")
    parts = key.split(".")
    if len(parts) == 3 and parts[0] == "space" and parts[2] == OLD_FLAG:
        way_out = "leave it out" if value is False else f"write {NEW_FIELD}: {NEW_VALUE}"
        raise ConfigError(f"{key} is called {NEW_FIELD} {SINCE}; {way_out}")


def translate_old_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a run folder's sweep.yaml in the present words."""
    new = dict(values)
    for key, words in VALUES.items():
        if isinstance(new.get(key), str):
            new[key] = words.get(new[key], new[key])
    for name, part in _with_flag(values):
        kept = {key: value for key, value in part.items() if key != OLD_FLAG}
        new["space"] = {**new["space"], name: {**kept, NEW_FIELD: NEW_VALUE if part[OLD_FLAG] else None}}
    return new


def _with_flag(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    space = values.get("space")
    for name, part in space.items() if isinstance(space, Mapping) else ():
        if isinstance(part, Mapping) and OLD_FLAG in part:
            yield name, part
