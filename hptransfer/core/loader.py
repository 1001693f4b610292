"""Typed loader: builds dataclasses from plain values.

It produces every message about keys and types.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.registry import Registry

T = TypeVar("T")
Members = Mapping[str, Callable[[str], type[Any]]]
"""For each place that holds a member of a family: the schema of a member by its name."""


def members_of(families: Mapping[str, Registry[Any]], place: str = "") -> Members:
    """Return the schemas of families' members, by dotted key below `place`."""
    prefix = f"{place}." if place else ""
    return {f"{prefix}{key}": family.get for key, family in families.items()}


# Value of a key that has to be given, as in OmegaConf.
REQUIRED = "???"
TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")


class RefusedValueError(ConfigError):
    """A value that does not fit the field at its place.

    Attributes:
        place: dotted key of the field.
        rule: what follows the place in the message, without the value.
        shows_value: true if the message ends with the value.
    """

    def __init__(self, place: str, rule: str, *value: Any) -> None:
        self.place, self.rule, self.shows_value = place, rule, bool(value)
        super().__init__(f"{place} {rule}" + "".join(f", got {one!r}" for one in value))


class UnknownKeyError(ConfigError):
    """A key that its schema does not have.

    Attributes:
        place: dotted key.
        known: keys of the schema.
    """

    def __init__(self, place: str, known: Iterator[str] | Mapping[str, Any]) -> None:
        self.place, self.known = place, sorted(known)
        super().__init__(unknown_key(place, self.known, {}))


@dataclass(frozen=True)
class SchemaField:
    """Type of one field, and whether it must be given."""

    kind: Any
    required: bool


_FIELDS: dict[type[Any], Mapping[str, SchemaField]] = {}


def fields_of(schema: type[Any]) -> Mapping[str, SchemaField]:
    """Return the fields of a dataclass by name, with resolved types.

    They are resolved once per process.
    """
    if schema not in _FIELDS:
        kinds = get_type_hints(schema)
        _FIELDS[schema] = {
            item.name: SchemaField(
                kinds[item.name], item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            )
            for item in dataclasses.fields(schema)
        }
    return _FIELDS[schema]


def defaults_of(schema: type[Any]) -> dict[str, Any]:
    """Return the defaults of a schema's fields as plain values.

    A field without a default gets REQUIRED.
    """
    defaults: dict[str, Any] = {}
    for item in dataclasses.fields(schema):
        if item.default is not dataclasses.MISSING:
            value = item.default
        elif item.default_factory is not dataclasses.MISSING:
            value = item.default_factory()
        else:
            value = REQUIRED
        is_config = dataclasses.is_dataclass(value) and not isinstance(value, type)
        defaults[item.name] = dataclasses.asdict(value) if is_config else value
    return defaults


def open_mappings(schema: type[Any], prefix: str = "") -> set[str]:
    """Return the dotted keys of mappings that users add keys to."""
    found: set[str] = set()
    for name, item in fields_of(schema).items():
        if get_origin(item.kind) is dict:
            found.add(f"{prefix}{name}")
        elif dataclasses.is_dataclass(item.kind) and isinstance(item.kind, type):
            found |= open_mappings(item.kind, f"{prefix}{name}.")
    return found


def load(schema: type[T], values: Any, place: str = "", members: Members | None = None) -> T:
    """Build a dataclass from plain values.

    Args:
        values: from YAML or JSON; a key that is absent gets the field's default.
        place: dotted key of the dataclass; empty for a whole file.
        members: schemas of the members of families, by dotted key.

    Raises:
        UnknownKeyError: a key that the schema does not have.
        RefusedValueError: a value of another type, or a missing one.
    """
    fields = fields_of(schema)
    if not isinstance(values, Mapping):
        if not place:
            raise RefusedValueError("the file", "must have keys, such as name: and grid:", values)
        example = "values=[...]" if "values" in fields else "KEY=VALUE"
        raise RefusedValueError(place, f"has keys of its own; set one of them, as in {place}.{example}", values)
    prefix = f"{place}." if place else ""
    for key in values:
        if key not in fields:
            raise UnknownKeyError(f"{prefix}{key}", fields)
    loaded: dict[str, Any] = {}
    # A wrong value is reported before a missing one.
    for name, item in sorted(fields.items(), key=lambda field: values.get(field[0], REQUIRED) == REQUIRED):
        where = f"{prefix}{name}"
        value = values.get(name, REQUIRED if item.required else dataclasses.MISSING)
        if where in (members or {}):
            loaded[name] = _member(value, where, members or {})
        elif value is not dataclasses.MISSING:
            loaded[name] = _convert(item.kind, value, where, members)
    return schema(**loaded)


def _member(value: Any, place: str, members: Members) -> Any:
    """Build the member of a family that `name` names."""
    choice = f"{place.replace('.', '/')}=NAME"
    if value in (None, REQUIRED, dataclasses.MISSING):
        raise RefusedValueError(place, f"must be given; choose one by {choice}")
    if not isinstance(value, Mapping):
        raise RefusedValueError(place, f"has keys of its own; choose it by {choice}", value)
    if value.get("name") in (None, REQUIRED):
        raise RefusedValueError(f"{place}.name", "must be given")
    return load(members[place](str(value["name"])), value, place, members)


def _convert(kind: Any, value: Any, place: str, members: Members | None) -> Any:
    """Return the value as the field's type holds it."""
    if isinstance(value, str) and value == REQUIRED:
        raise RefusedValueError(place, "must be given")
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
        return _convert(kind, value, place, members)
    if value is None:
        way_out = '; quote it as "null" if it is text' if kind is str else ""
        raise RefusedValueError(place, f"must have a value, null is none{way_out}")
    if origin is list:
        if not isinstance(value, list | tuple):
            raise RefusedValueError(place, f"takes a list, such as {place}=[1,2]", value)
        (inner,) = get_args(kind)
        return [_convert(inner, item, f"{place}[{index}]", members) for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RefusedValueError(place, f"has keys of its own; set one of them, as in {place}.KEY=VALUE", value)
        inner = get_args(kind)[1]
        return {str(key): _convert(inner, item, f"{place}.{key}", members) for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return load(kind, value, place, members)
    return SCALARS[kind](value, place)


def converted(schema: type[Any], values: Any, place: str = "", members: Members | None = None) -> Any:
    """Return plain values with numbers and texts as their fields hold them.

    A ${...} then prints a value like its field.

    A value that does not fit, or that refers to others itself, stays as it is: `load` reports it.
    """
    if not isinstance(values, Mapping):
        return values
    fields = fields_of(schema)
    return {
        key: _converted(fields[key].kind, value, f"{place}.{key}" if place else str(key), members)
        if key in fields
        else value
        for key, value in values.items()
    }


def _converted(kind: Any, value: Any, place: str, members: Members | None) -> Any:
    if place in (members or {}):
        name = value.get("name") if isinstance(value, Mapping) else None
        try:
            return converted((members or {})[place](str(name)), value, place, members)
        except ConfigError:
            return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return converted(kind, value, place, members)
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {key: _converted(get_args(kind)[1], item, f"{place}.{key}", members) for key, item in value.items()}
    if isinstance(value, str) and "${" in value:
        return value
    try:
        return _convert(kind, value, place, None)
    except ConfigError:
        return value


def _number(value: Any, place: str) -> float:
    if type(value) in (int, float, str):
        try:
            return float(value)
        except (ValueError, OverflowError):  # an integer of 400 digits
            pass
    raise RefusedValueError(place, "takes a number", value)


def _whole_number(value: Any, place: str) -> int:
    if type(value) in (int, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise RefusedValueError(place, "takes a whole number, such as 20_000_000", value)


def _truth(value: Any, place: str) -> bool:
    if type(value) in (bool, int, str):
        word = str(value).lower()
        if word in TRUE or word in FALSE:
            return word in TRUE
    raise RefusedValueError(place, "takes true or false", value)


def _text(value: Any, place: str) -> str:
    if isinstance(value, Mapping | list | tuple | bytes):
        raise RefusedValueError(place, "must be text or a number", value)
    return str(value)


SCALARS: Mapping[type[Any], Callable[[Any, str], Any]] = {
    int: _whole_number,
    float: _number,
    bool: _truth,
    str: _text,
}


def unknown_key(place: str, known: Mapping[str, Any] | list[str], tree: Any) -> str:
    """Return one line with the nearest known key.

    It names the places where the tree has a key of this name.

    Args:
        place: dotted key, of which the last part is unknown.
        known: keys that exist beside it.
    """
    parent, _, name = place.rpartition(".")
    elsewhere = sorted((path for path in paths(tree) if path.rpartition(".")[2] == name and path != place), key=len)
    hint = f"; there is {' and '.join(choice_of(path) for path in elsewhere[:3])}" if elsewhere else ""
    return f"{place}: {unknown('key', name, known)} (in {parent.rpartition('.')[2] or 'the file'}){hint}"


# Keys that hold a whole member, and the group by which the member is chosen.
CHOSEN = {f"run.{key}": f"run/{key}" for key in ("model", "optimizer", "data")}


def choice_of(key: str) -> str:
    """Return the group that sets a key, or the key itself."""
    return CHOSEN.get(key, key)


def paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of nested mappings."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        yield f"{prefix}{key}"
        yield from paths(value, f"{prefix}{key}.")
