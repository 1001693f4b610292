"""Token files: raw uint16 or uint32 tokens, or modded-nanogpt's .bin, memory-mapped."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.core.errors import ConfigError, DataError, unknown
from hptransfer.training.datasets import DATASETS, TOKENS, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._stream import Stream, Tokens

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
# The header of llm.c and modded-nanogpt: 256 int32, of which the first three are used.
MAGIC, HEADER_VERSION, HEADER_BYTES = 20240520, 1, 1024
FILE_LAYOUT = (
    f"a file holds little-endian tokens of run.data.dtype and nothing else, or a header of {HEADER_BYTES} bytes "
    f"(int32: {MAGIC}, version {HEADER_VERSION}, number of tokens) and uint16 tokens"
)
_CHUNK_BYTES = 1 << 22


@DATASETS.register("token_file")
@dataclass(kw_only=True)
class TokenFileConfig(DataConfig):
    """Settings of token files, with or without a header.

    Files without a header are those of nanoGPT's prepare.py. A magic number identifies modded-nanogpt's header.
    """

    name: str = "token_file"
    path: str = ""
    """File of the training tokens; required."""
    validation_path: str = ""
    """File of the validation tokens; empty: the end of the training file."""
    validation_percent: int = 10
    """Percentage of the training file that is held out without a validation file, in (0, 100)."""
    dtype: str = "uint16"
    """Type of a token in the file: uint16 or uint32, little-endian."""
    vocabulary: int = 0
    """Number of different tokens, all below it; required."""

    def shape(self, sequence: int) -> DataShape:
        if not self.path:
            raise ConfigError(
                "run.data.path must be given with run/data=token_file, got ''; set it to a file of tokens"
            )
        for key in ("path", "validation_path"):
            if path := getattr(self, key):
                with _readable(key, Path(path)):  # checked first: other settings do not matter without the file
                    Path(path).open("rb").close()
        if self.vocabulary < 1:
            raise ConfigError(
                f"run.data.vocabulary must be at least 1, got {self.vocabulary}; set it to that of the tokenizer"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"run.data.dtype: {unknown('type', self.dtype, DTYPES)}")
        if not 0 < self.validation_percent < 100:
            raise ConfigError(f"run.data.validation_percent must be between 0 and 100, got {self.validation_percent}")
        return DataShape(kind=TOKENS, inputs=(sequence,), vocabulary=self.vocabulary, outputs=self.vocabulary)

    def load(self) -> Dataset:
        train, content = self._open("path")
        if self.validation_path:
            held_out, held_out_id = self._open("validation_path")
            if Path(self.validation_path).samefile(self.path):
                raise DataError(
                    f"run.data.validation_path is {self.validation_path}, which is trained on; "
                    "give another file, or none to hold out the end of this one"
                )
        else:
            size = len(train) - len(train) * self.validation_percent // 100
            train, held_out, held_out_id = train[:size], train[size:], str(self.validation_percent)
        return Stream(
            train,
            held_out,
            fingerprint=hashlib.sha256(f"{self.dtype} {content} {held_out_id}".encode()).hexdigest()[:16],
            source=self.path,
            unit="tokens",
            remedy="point run.data.path or run.data.validation_path at a longer file",
        )

    def _open(self, key: str) -> tuple[Tokens, str]:
        """Return a setting's memory-mapped file of tokens and its content hash."""
        path, dtype = Path(getattr(self, key)), DTYPES[self.dtype]
        with _readable(key, path):
            offset = _offset(path, dtype, f"run.data.{key}")
            status = path.stat()
            content, largest = _scan(path, status.st_size, status.st_mtime_ns, offset, dtype)
            tokens = np.memmap(path, dtype=dtype, mode="r", offset=offset)
        if largest >= self.vocabulary:
            raise DataError(
                f"run.data.{key}: {path} has the token {largest}, tokens must be below run.data.vocabulary "
                f"({self.vocabulary}); raise it, or check run.data.dtype ({self.dtype})"
            )
        return np.asarray(tokens), content


@contextmanager
def _readable(key: str, path: Path) -> Iterator[None]:
    """Raise DataError if the file of a setting cannot be read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"run.data.{key}: cannot read {path} ({error.strerror}); {FILE_LAYOUT}") from None


def _offset(path: Path, dtype: np.dtype[Any], place: str) -> int:
    """Return the number of bytes before the first token.

    Raises:
        DataError: the size of the file does not match whole tokens, or its header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = np.frombuffer(file.read(12).ljust(12, b"\0"), dtype="<i4")
    if header[0] != MAGIC:
        if not size or size % dtype.itemsize:
            raise DataError(
                f"{place}: {path} has {size} bytes, not a whole number of {dtype.name} tokens; {FILE_LAYOUT}"
            )
        return 0
    if header[1] != HEADER_VERSION or dtype.itemsize != 2:
        raise DataError(
            f"{place}: {path} has a header of version {header[1]}, read with run.data.dtype={dtype.name}; {FILE_LAYOUT}"
        )
    if header[2] < 1 or size != HEADER_BYTES + 2 * int(header[2]):
        raise DataError(f"{place}: {path} has {size} bytes, its header says {header[2]} tokens; {FILE_LAYOUT}")
    return HEADER_BYTES


@functools.cache
def _scan(path: Path, size: int, mtime_ns: int, offset: int, dtype: np.dtype[Any]) -> tuple[str, int]:
    """Return the hash of a file's bytes and its largest token.

    Memory use is bounded. The result is cached by size and modification time.
    """
    content, largest = hashlib.sha256(), 0
    with path.open("rb") as file:
        content.update(file.read(offset))
        while chunk := file.read(_CHUNK_BYTES):
            content.update(chunk)
            largest = max(largest, int(np.frombuffer(chunk, dtype=dtype).max()))
    return content.hexdigest(), largest
