"""Secrets: passwords in URIs are redacted, others are stored as references.

`io.write_text` and everything that prints an error apply `redacted`. `with_password` restores a redacted URI from a
variable of the environment. Any other secret of a sweep stays the reference that the user wrote, ${oc.env:NAME}, until
`read_references` reads it where it is used.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hptransfer.core.errors import ConfigError

HIDDEN = "***"
REFERENCE = re.compile(r"\$\{oc\.env:([^{}$\s,:]+)\}")
"""Reference to a variable of the environment; its group is the name."""
# Shorter values are part of too many words that are no secrets.
MIN_HIDDEN_CHARS = 8
# Words of a name. The first ones are secret with any value, the others unless the value is plain: pad_token: <pad>.
_SECRET = re.compile(
    r"(?:^|_)(?:secrets?|passphrase|credentials?|authorization|bearer|webhooks?"
    r"|(?:api|access|private|auth)_?(?:key|token)s?)(?:_|$)|passw(?:or)?d|_pwd(?:_|$)"
)
_AMBIGUOUS = re.compile(r"(?:^|_)(?:key|token|o?auth(?:entication)?)(?:_|$)")
# In capitals, such a word may end a longer one: HFTOKEN. Monkeys are no keys.
_JOINED = re.compile(r"(?<=[a-z0-9])(?<!mon|don|tur|hoc|joc)(?<!whis)(?=(?:key|token|secret|credentials?)(?:_|$))")
# A key as services issue them, in code as well as in settings.
_LITERAL = re.compile(r"(?=\S*\d)(?=\S*[A-Za-z])[\w+/=-]{12,}")
# An address whose user is a token.
_USER = re.compile(r"://(?=(?P<value>(?=\w*\d)\w{16,})@)")
_PLAIN = re.compile(r"[^\d$]{0,15}|[-+.\deE]{1,15}")
# Of a name in capitals, as variables of the environment have it.
_PLAIN_OF_VARIABLE = re.compile(r"[-+.\de]{0,15}|true|false|yes|no|on|off|none|null", re.IGNORECASE)
# NAME=VALUE, "name": "value", Authorization: Bearer VALUE, --name VALUE. A value may have further names in it.
_INLINE = re.compile(
    r"(?:(?<![\w.])(?P<name>[a-z_][\w.-]{0,80})[\"']?\s*[=:]\s*(?:(?:bearer|basic|token)\s+)?|\b(?P<scheme>bearer)\s+"
    r"|--(?P<option>[a-z][\w-]{0,80})\s+)[\"']?",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[^\s\"',;&]{1,2000}")
# A value that a shell or a template fills in.
_FILLED_IN = re.compile(r"\$\(|\$\{?[A-Z_][A-Z0-9_]*\b|\{\w+\}")

# user:password@ ends at the host. In web addresses alone, a port and a path with an @ can look like a password.
_WEB = re.compile(r"(?P<before>\bhttps?://[^\s/:@?#'\"]{0,200}:)[^\s/?#'\"]{1,500}(?=@)", re.IGNORECASE)
_OTHER = re.compile(
    r"(?P<before>\b(?!https?://)[a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]{0,200}:)[^\s@'\"]{1,500}(?=@)", re.IGNORECASE
)
_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|pwd|sslpassword|token|access_token|secret|api_key)=)[^\s&#'\"]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """Replace passwords in URIs by three stars; keep references."""
    if "://" not in text:
        return text
    for pattern in (_WEB, _OTHER, _QUERY):
        text = pattern.sub(_without_password, text)
    return text


def _without_password(match: re.Match[str]) -> str:
    is_reference = REFERENCE.fullmatch(match[0].removeprefix(match["before"]))
    return match[0] if is_reference else match["before"] + HIDDEN


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


def is_secret_name(name: str) -> bool:
    """Test if a name marks a secret, as WANDB_API_KEY does."""
    words = _words(name)
    return bool(_SECRET.search(words) or _AMBIGUOUS.search(words))


def is_secret(name: str, value: str) -> bool:
    """Test if a value is a secret, by its name.

    A number or a short word is none where the name only has the word key, token or auth.
    """
    words = _words(name)
    if _SECRET.search(words):
        return bool(value)
    plain = _PLAIN_OF_VARIABLE if name.isupper() else _PLAIN
    return bool(_AMBIGUOUS.search(words)) and not plain.fullmatch(value)


def _words(name: str) -> str:
    """Return the words of a name in lower case, joined by underscores."""
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return _JOINED.sub("_", words) if name.isupper() else words


def names_secret(name: str, text: str) -> bool:
    """Test if a text holds a secret, written out or referred to."""
    return is_secret(name, text) or any(True for _ in _inline(text))


def holds_secret(name: str, text: str) -> bool:
    """Test if a text holds a secret that is written out.

    Args:
        name: of the text. Names in the text itself count too, as in --api-key=VALUE.
    """
    if is_secret(name, text) and not (REFERENCE.search(text) or _FILLED_IN.fullmatch(text)):
        return True
    return any(not REFERENCE.search(value) and not _FILLED_IN.match(value) for _, value in _inline(text))


def _inline(text: str) -> Iterator[tuple[int, str]]:
    """Yield start and text of every named secret in a text."""
    for match in _INLINE.finditer(text):
        name = match["name"] or match["option"] or match["scheme"]
        found = _VALUE.match(text, match.end()) if is_secret_name(name) else None
        if found is not None:
            value = found[0] if "{" in found[0] else found[0].rstrip("}])")
            if is_secret(name, value):
                yield found.start(), value
    for match in _USER.finditer(text):
        yield match.start("value"), match["value"]


def without_secrets(text: str) -> str:
    """Replace every named secret in a text by three stars."""
    for start, value in sorted(_inline(text), reverse=True):
        text = text[:start] + HIDDEN + text[start + len(value) :]
    return text


def without_literals(text: str) -> str:
    """Replace keys in source code by three stars.

    A name such as `token` is a variable there, so only values that look like an issued key count.
    """
    for start, value in sorted(_inline(text), reverse=True):
        if _LITERAL.fullmatch(value):
            text = text[:start] + HIDDEN + text[start + len(value) :]
    return text


def read_references(text: str, place: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replace the references in a text by the values of their variables.

    Args:
        place: of the text in the sweep, for messages.

    Raises:
        ConfigError: a variable is not set.
    """
    for name in REFERENCE.findall(text):
        if name not in environment:
            raise ConfigError(
                f"{place} reads the variable {name}, which is not set on {platform.node()}; export it where "
                "hptransfer starts, then retry"
            )
    return REFERENCE.sub(lambda match: environment[match[1]], text)


def read_values(text: str, environment: Mapping[str, str] = os.environ) -> set[str]:
    """Return the values of the variables that a text refers to."""
    return {environment[name] for name in REFERENCE.findall(text) if name in environment}


def hidden(text: str, values: Iterable[str]) -> str:
    """Replace values of sufficient length by three stars."""
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN) if len(value) >= MIN_HIDDEN_CHARS else text
    return text


def hidden_stream(chunks: Iterable[bytes], values: Collection[str]) -> Iterator[bytes]:
    """Yield a stream of bytes with every value replaced by three stars.

    An end that may be the beginning of a value waits for the next bytes.
    """
    secrets = sorted((value.encode() for value in values if len(value) >= MIN_HIDDEN_CHARS), key=len, reverse=True)
    if not secrets:
        yield from chunks
        return
    pattern, held = re.compile(b"|".join(map(re.escape, secrets))), b""
    for chunk in chunks:
        held += chunk
        lengths = (length for secret in secrets for length in range(1, len(secret)) if held.endswith(secret[:length]))
        beginning, end, out = len(held) - max(lengths, default=0), 0, b""
        for match in pattern.finditer(held):
            if match.start() >= beginning:
                break
            out += held[end : match.start()] + HIDDEN.encode()
            end = match.end()
        yield out + held[end : max(beginning, end)]
        held = held[max(beginning, end) :]
    yield pattern.sub(HIDDEN.encode(), held)
