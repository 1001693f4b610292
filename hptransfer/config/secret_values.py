"""Secrets of a sweep: kept as references, refused where written out.

A run folder holds every setting of its sweep, and shared ones have many readers. A secret therefore stays the reference
that the user wrote, ${oc.env:NAME}, and is read again by the process that needs it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.records import digest
from hptransfer.core.redaction import (
    HIDDEN,
    REFERENCE,
    holds_secret,
    is_secret_name,
    names_secret,
    redacted,
    without_secrets,
)

HOOK = re.compile(r"hooks\.(?:done|failed|blocked)\b")
TRACKER_URI = "tracker.uri"
"""Its password is redacted wherever it is written (see redaction.py), so that it may hold one."""
# The name of a number, whatever words it has.
METRIC = "run.metric."


class EnvironmentReader:
    """Resolver of ${oc.env:NAME} that leaves secrets as they are.

    Attributes:
        digests: digest of the value of every other variable that was read, by name.
    """

    def __init__(self, tree: Mapping[str, Any]) -> None:
        """Find the places of secrets in an unresolved tree."""
        self.digests: dict[str, str] = {}
        self._places = {
            place
            for place, name, text in _texts(tree)
            if "${" in text and (HOOK.match(place) or names_secret(name, text))
        }
        self._passwords: set[str] = set()

    def read(self, place: str, name: str, *default: Any) -> Any:
        """Return the value of a variable, or the reference to a secret.

        Args:
            place: dotted key of the text that has the reference.
            default: value for a variable that is not set, if any.

        Raises:
            ConfigError: it is not set, or a secret has a default.
        """
        secret = is_secret_name(name) or place in self._places
        if name not in os.environ and not default:
            raise ConfigError(f"the variable {name} is not set; export it")
        value = os.environ.get(name, *(text if text is None else str(text) for text in default))
        if not secret:
            self.digests[name] = digest(value)
            return value
        if place == TRACKER_URI:
            self._passwords.add(str(value))
            return value
        if default:
            raise ConfigError(f"the secret {name} cannot have a default, which would be stored; export it instead")
        return f"${{oc.env:{name}}}"

    def check(self, values: Mapping[str, Any], readable: Collection[str]) -> None:
        """Check that no resolved value has a secret in it.

        Args:
            readable: dotted keys below which references are read where they are used.

        Raises:
            ConfigError: a secret is written out, or refers to a variable where nothing reads it.
        """
        for place, name, text in _texts(values):
            if place == TRACKER_URI:
                if any(password in redacted(text) for password in self._passwords):
                    raise ConfigError(f"{place} has a secret outside its password, which would be stored; leave it out")
                continue
            refuse_secret(place, name, text)
            can_read = HOOK.match(place) or re.split(r"\[", place)[0].startswith(tuple(readable))
            if (variable := REFERENCE.search(text)) and not can_read:
                raise ConfigError(f"{place} would store the secret {variable[1]}; {_way_out(place)}")


def refuse_secret(place: str, name: str, text: str) -> None:
    """Raise ConfigError for a text with a secret that is written out."""
    address = HOOK.match(place) and re.search("https?://", text) and not REFERENCE.search(text)
    if address or (holds_secret(name, text) and not place.startswith(METRIC)):
        what = "an address, which may be a secret" if address else "what looks like a secret"
        raise ConfigError(f"{place} holds {what}, and would store it in clear; {_way_out(place)}")


def refuse_secret_override(override: str) -> None:
    """Raise ConfigError, without repeating it, for an override with a secret."""
    key, _, value = override.lstrip("+~").partition("=")
    if not value.startswith(("[", "{")):
        refuse_secret(key, key.rpartition(".")[2], value.strip("'\""))


def shown_override(override: str) -> str:
    """Return an override for messages, without secrets and addresses of hooks."""
    key = override.partition("=")[0]
    if key.lstrip("+").startswith("hooks") and "://" in override:
        return f"{key}={HIDDEN}"
    return without_secrets(override)


def has_secret(value: Any, key: str) -> bool:
    """Test if the stored value of a key has a written-out secret."""
    return any(holds_secret(name, text) for _, name, text in _texts(value, key, key.rpartition(".")[2]))


def _way_out(place: str) -> str:
    """Return what to do instead of writing a secret at a place."""
    head, _, name = place.rpartition(".")
    if head == "run.environment":
        return f"export {name} and leave it out, as scripts inherit it, or write {place}='${{oc.env:{name}}}'"
    if HOOK.match(place):
        return "export it, and write '${oc.env:SWEEP_HOOK}' there, with the name of the variable"
    if place.startswith("launcher."):
        return "jobs have the environment of the driver: write $NAME there, which their shell reads"
    if place.startswith("run.names."):
        return "give it as a reference under run.environment, or another name if it is not a secret"
    if place.startswith(("run.command", "run.torchrun")):
        return "export it, and write '${oc.env:NAME}' there; if it is not a secret, pass it by a name of run.names"
    return "have the program read it from its environment, or give it another name if it is not a secret"


def _texts(tree: Any, place: str = "", name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield place, name and text of every value in a tree.

    The name is the last key. In a list it is the option before a value, such as --api-key.
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _texts(value, f"{place}.{key}" if place else str(key), str(key))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for index, value in enumerate(tree):
            option = _option(tree[index - 1]) if index and not _option(value) else None
            yield from _texts(value, f"{place}[{index}]", option or name)
    elif isinstance(tree, str | int | float) and not isinstance(tree, bool):
        yield place, name, str(tree)


def _option(argument: Any) -> str | None:
    """Return an argument that is an option without value, else None."""
    is_option = isinstance(argument, str) and argument.startswith("-") and "=" not in argument
    return argument if is_option else None
