"""Python standard library's sources as bytes: real text on every machine."""

from __future__ import annotations

import functools
import hashlib
import os
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hptransfer.core.errors import DataError
from hptransfer.training.datasets import DATASETS, TOKENS, DataConfig, Dataset, DataShape
from hptransfer.training.datasets._stream import Stream

# Directories that distributions omit, or that are not part of the standard library.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@DATASETS.register("stdlib")
@dataclass(kw_only=True)
class StdlibConfig(DataConfig):
    """Settings of the standard library's sources."""

    name: str = "stdlib"
    path: str = ""
    """Folder whose *.py files are read; empty: the running interpreter's standard library."""
    validation_percent: int = 10
    """Percentage of the files that is held out, in (0, 100)."""

    def shape(self, sequence: int) -> DataShape:
        return DataShape(kind=TOKENS, inputs=(sequence,), vocabulary=256, outputs=256)

    def load(self) -> Dataset:
        return _load_sources(self.path or sysconfig.get_paths()["stdlib"], self.validation_percent)


def _sources(root: Path) -> list[Path]:
    """Return sorted *.py files below a folder, relative to it.

    Skipped folders, often most of all files, are not opened.
    """
    paths = []
    for folder, inner, files in os.walk(root):
        inner[:] = set(inner) - _SKIPPED
        paths += [Path(folder, file).relative_to(root) for file in files if file.endswith(".py")]
    return sorted(paths)


@functools.cache
def _load_sources(folder: str, validation_percent: int) -> Stream:
    root = Path(folder)
    if not 0 < validation_percent < 100:
        raise DataError(f"run.data.validation_percent must be between 0 and 100, got {validation_percent}")
    streams: tuple[list[bytes], list[bytes]] = ([], [])
    content_hash = hashlib.sha256()
    for path in _sources(root):
        name, text = path.as_posix(), (root / path).read_bytes()
        held_out = zlib.crc32(name.encode()) % 100 < validation_percent
        streams[held_out].append(text)
        content_hash.update(f"{name}\0{int(held_out)}{len(text)}\0".encode() + text)
    if not streams[0] and not streams[1]:
        raise DataError(f"run.data: no *.py file under {root}; point run.data.path at a folder that has some")
    if not streams[0]:
        raise DataError(
            f"run.data: all {len(streams[1])} *.py files under {root} are held out by the split, which depends on "
            "file names; point run.data.path at a folder with more of them"
        )
    return Stream(
        np.frombuffer(b"\n".join(streams[0]), dtype=np.uint8),
        np.frombuffer(b"\n".join(streams[1]), dtype=np.uint8),
        fingerprint=content_hash.hexdigest()[:16],
        source=str(root),
        unit="bytes",
        remedy="point run.data.path at a folder with more *.py files",
    )
