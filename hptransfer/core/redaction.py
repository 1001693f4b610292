"""Passwords: what is written or printed never holds one that stands in a URI.

`files.write_text` and everything that prints an error go through `redacted`. A URI whose password was
left out is whole again if the environment has it (`whole`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "***"

# user:password@ ends at the host. Only in web addresses can a port and a path with an @ look like a password.
_WEB = re.compile(r"(?P<before>\bhttps?://[^\s/:@?#'\"]*:)[^\s/?#'\"]+(?=@)", re.IGNORECASE)
_OTHER = re.compile(r"(?P<before>\b(?!https?://)[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:)[^\s@'\"]+(?=@)", re.IGNORECASE)
_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|pwd|sslpassword|token|access_token|secret|api_key)=)[^\s&#'\"]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """The text with every password in a URI replaced by three stars."""
    if "://" not in text:
        return text
    for pattern in (_WEB, _OTHER, _QUERY):
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def whole(uri: str, environment: Mapping[str, str], *names: str) -> str:
    """A URI whose password was left out, taken from the variable of the environment that differs in that alone.

    Args:
        names: variables that may hold it.
    """
    for name in names:
        given = environment.get(name, "")
        if given and redacted(given) == redacted(uri):
            return given
    return uri


def passwords(tree: Any, place: str) -> Iterator[str]:
    """Dotted places of plain values that hold a password in a URI."""
    if isinstance(tree, str):
        if redacted(tree) != tree:
            yield place
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from passwords(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, Sequence):
        for index, value in enumerate(tree):
            yield from passwords(value, f"{place}[{index}]")
