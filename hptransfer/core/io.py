"""Files written in one step and read with one-line errors: text, JSON, JSON lines."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hptransfer.core.errors import ConfigError, RunFolderError
from hptransfer.core.redaction import redacted

SCHEMA = 1


NAME_CHARS = 120


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader sees the old text or the new one, never a part, and no password."""
    temporary = path.with_name(f".{path.name[:NAME_CHARS]}.{secrets.token_hex(4)}")
    # Its mode is the umask's. No file of another's is opened, nor a link followed.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(redacted(text))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_name(text: str) -> str:
    """A name for one file that text from outside makes: no separators, of bounded length, different for other text."""
    plain = re.sub(r"[^\w=.,+-]", "_", text, flags=re.ASCII)[:NAME_CHARS]
    if plain == text and not text.startswith("."):
        return text
    return f"{plain.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with its schema version, in one step. NaN and infinity are refused."""
    write_text(path, json.dumps({"schema": SCHEMA, **values}, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Args:
        keys: what must be there.

    Raises:
        RunFolderError: the file is not such JSON, or a newer version of the tool wrote it.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    with reading(path):
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        schema = int(values.pop("schema"))
        for key in keys:
            values[key]
    if schema > SCHEMA:
        raise RunFolderError(f"{path} has schema {schema}, this version reads up to {SCHEMA}; upgrade hptransfer")
    return dict(values)


def set_aside(path: Path) -> None:
    """Renames a file that cannot be used, to a name that is free."""
    number = 1
    while (free := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    path.rename(free)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged file does to its reader into one line.

    Raises:
        RunFolderError: the block could not make sense of the file.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RunFolderError(f"{path} is damaged ({reason}); move it away, then run the same sweep again") from None


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends one line a row in a single write."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSON-lines file; a torn last line (a writer was killed) is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def filter_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Leaves, or makes, a JSON-lines file with those of its rows that are to be kept, in one step."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in read_jsonl(path) if keep(row)))


@contextmanager
def writable_folder(out: Path | None) -> Iterator[None]:
    """Makes the folder that `--out` names, if any, before what is computed for it; takes it back if that ends early.

    Raises:
        ConfigError: files cannot be written there.
    """
    if out is None:
        yield
        return
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    check_writable(out)
    try:
        yield
    except BaseException:
        for folder in new:
            folder.rmdir()
        raise


def check_writable(out: Path) -> None:
    """Makes the folder that `--out` names, before anything is computed for it.

    Raises:
        ConfigError: files cannot be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from None
