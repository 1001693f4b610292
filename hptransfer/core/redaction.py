"""Redaction of passwords in URIs, and their restoration from the environment.

`io.write_text` and everything that prints an error apply `redacted`. `with_password` restores a redacted URI from a
variable of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "***"

# user:password@ ends at the host. In web addresses alone, a port and a path with an @ can look like a password.
_WEB = re.compile(r"(?P<before>\bhttps?://[^\s/:@?#'\"]*:)[^\s/?#'\"]+(?=@)", re.IGNORECASE)
_OTHER = re.compile(r"(?P<before>\b(?!https?://)[a-z][a-z0-9+.-]*://[^\s/:@'\"]*:)[^\s@'\"]+(?=@)", re.IGNORECASE)
_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|pwd|sslpassword|token|access_token|secret|api_key)=)[^\s&#'\"]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """Replace every password in a URI by three stars."""
    if "://" not in text:
        return text
    for pattern in (_WEB, _OTHER, _QUERY):
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def with_password(uri: str, environment: Mapping[str, str], *names: str) -> str:
    """Restore a redacted URI's password from a variable of the environment.

    The variable's value must differ from the URI in the password only.

    Args:
        names: variables that may hold it.
    """
    for name in names:
        value = environment.get(name, "")
        if value and redacted(value) == redacted(uri):
            return value
    return uri


def passwords(tree: Any, path: str) -> Iterator[str]:
    """Yield the dotted paths of values with a password in a URI."""
    if isinstance(tree, str):
        if redacted(tree) != tree:
            yield path
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from passwords(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, Sequence):
        for index, value in enumerate(tree):
            yield from passwords(value, f"{path}[{index}]")
