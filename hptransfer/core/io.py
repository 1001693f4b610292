"""Atomic writing and checked reading of text, JSON and JSON lines."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hptransfer.core.errors import ConfigError, RunFolderError
from hptransfer.core.redaction import redacted

JSON_SCHEMA = 1
"""Version of the files' keys; files of a newer version are refused."""
NAME_CHARS = 120
UNFINISHED_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.unfinished")
"""Names of files that are being written, or whose writer was killed."""
LARGEST_JSON, LARGEST_TEXT = 100_000_000, 1_000_000_000
"""Bytes up to which a file of a run folder is read: one object, and lines of a journal or log."""
LARGEST_HASHED = 100_000_000
"""Bytes up to which `file_digest` reads a file: a fraction of a second."""


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically, with passwords redacted.

    A reader sees the old text or the new one, never a part.
    """
    write_bytes(path, redacted(text).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically; a link is replaced, not followed."""
    temporary = path.with_name(f".{path.name[:NAME_CHARS]}.{secrets.token_hex(4)}.unfinished")
    # Its mode follows the umask. O_EXCL opens neither an existing file nor a link.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_for_writing(path: Path, mode: str) -> IO[Any]:
    """Open a regular file to write or append, never through a link.

    Args:
        mode: "a", "a+" or "w" as of the builtin `open`, with "b" for bytes.

    Raises:
        RunFolderError: the path is a symbolic link, is not a regular file, or has a second name (a hard link).
    """
    flags = (os.O_RDWR if "+" in mode else os.O_WRONLY) | (0 if "w" in mode else os.O_APPEND) | os.O_CREAT
    kind = "not a regular file"
    try:
        # Without O_NONBLOCK a named pipe would block until a reader opens it.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
    else:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            if "w" in mode:
                os.truncate(handle, 0)
            return os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8")
        os.close(handle)
        kind = "a hard link, whose file has another name" if stat.S_ISREG(status.st_mode) else kind
    kind = "a symbolic link" if path.is_symlink() else kind
    raise RunFolderError(f"{path} is {kind}, so nothing is written there; remove it, then run the same command again")


def open_for_reading(path: Path) -> IO[bytes]:
    """Open a regular file to read its bytes.

    Raises:
        RunFolderError: it is something else, such as a named pipe, which would block.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise RunFolderError(f"{path} is not a regular file; move it away, then run the same command again")


def read_text(path: Path, errors: str = "strict", limit: int = LARGEST_TEXT) -> str:
    """Read a text file of a run folder.

    Args:
        errors: treatment of bytes that are not UTF-8, as of `bytes.decode`.
        limit: largest size in bytes.

    Raises:
        RunFolderError: it is larger, or not a regular file.
    """
    with open_for_reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise RunFolderError(f"{path} has {size:,} bytes, more than {limit:,}; move it away")
        return file.read().decode("utf-8", errors)


def read_tail(path: Path, size: int) -> list[str]:
    """Return the lines in the last bytes of a file.

    Without a file there are none.

    Raises:
        RunFolderError: it is not a regular file.
    """
    if not path.exists():
        return []
    with open_for_reading(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace").splitlines(keepends=True)


def is_file(path: Path) -> bool:
    """Test if a path is a file, whatever text it holds."""
    try:
        return path.is_file()
    except OSError:  # such as a name of more than 255 characters, or a folder that may not be searched
        return False


def file_digest(path: Path) -> str:
    """Return a hash of a file's content, read in pieces.

    That of a file larger than LARGEST_HASHED is of its size and its time of modification.
    """
    status = path.stat()
    if status.st_size > LARGEST_HASHED:
        return hashlib.sha256(f"{status.st_size} bytes of {status.st_mtime_ns} ns".encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(text: str) -> str:
    """Return a safe file name for any text.

    It has no separators and a bounded length, and differs between different texts.
    """
    safe = re.sub(r"[^\w=.,+-]", "_", text, flags=re.ASCII)[:NAME_CHARS]
    if safe == text and not text.startswith("."):
        return text
    return f"{safe.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object and its schema version atomically.

    NaN and infinity are refused.
    """
    write_text(path, json.dumps({"schema": JSON_SCHEMA, **values}, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a file of `write_json`.

    Args:
        keys: keys that must be present.

    Raises:
        RunFolderError: the file is damaged, or a newer version of the tool wrote it.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    with reading(path):
        values = json.loads(read_text(path, limit=LARGEST_JSON), parse_constant=refuse)
        schema = int(values.pop("schema"))
        for key in keys:
            values[key]
    if schema > JSON_SCHEMA:
        raise RunFolderError(f"{path} has schema {schema}, this version reads up to {JSON_SCHEMA}; upgrade hptransfer")
    return dict(values)


def set_aside(path: Path) -> None:
    """Rename an unusable file to a free name."""
    number = 1
    while (free_path := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    path.rename(free_path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report errors of the block as one line about a damaged file.

    Raises:
        RunFolderError: the block could not interpret the file.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RunFolderError(
            f"{path} is damaged ({reason}); move it away, then run what wrote it again: sweep, verify or analyze"
        ) from None


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append one line per row in a single write."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with open_for_writing(path, "a") as file:
        file.write(text)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file.

    An incomplete last line, left by a writer that was killed, is dropped. Without a file the result is empty.
    """
    if not path.exists():
        return []
    lines = read_text(path).split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def filter_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep some rows of a JSON-lines file, atomically; create it if missing."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in read_jsonl(path) if keep(row)))


@contextmanager
def writable_folder(out: Path | None) -> Iterator[None]:
    """Create a folder, and remove it if the block writes nothing.

    Raises:
        ConfigError: files cannot be written there.
    """
    if out is None:
        yield
        return
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    check_writable(out)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds files
                folder.rmdir()
        raise


def check_writable(out: Path) -> None:
    """Create the folder of `--out` and check that it is writable.

    Raises:
        ConfigError: files cannot be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from None
