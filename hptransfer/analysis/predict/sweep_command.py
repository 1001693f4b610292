"""The command that trains further runs of a run folder's sweep."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Sequence

import pandas as pd

from hptransfer.analysis.laws.runs_to_add import AddedRuns
from hptransfer.analysis.tables.columns import Columns
from hptransfer.core.bracketing import canonical
from hptransfer.core.io import read_json, read_text
from hptransfer.core.records import exact, plain_exponent
from hptransfer.core.redaction import HIDDEN
from hptransfer.core.run_folder import RunFolder

# A sampler other than the grid chooses points itself, so that values cannot be added to it.
SAMPLER = re.compile(r"^sampler:\n(?:  .*\n)*?  name: (\S+)$", re.MULTILINE)
GRID = "grid"
# Options of `sweep` that are followed by a value.
OPTIONS_WITH_VALUE = ("--next",)
LONGEST_COMMAND = 1_000


def sweep_command(folder: RunFolder, records: pd.DataFrame, columns: Columns, added: Sequence[AddedRuns]) -> str | None:
    """Return the last command of a sweep with overrides that add runs.

    A sweep has the same values at every scale, so an added value is trained at all of them. Where the last command is
    unknown or a sampler chooses the points, the result is None.
    """
    words = _last_command(folder)
    if not words or not added:
        return None
    overrides = []
    for axis in columns.scales:
        overrides += _override(f"grid.{axis}.values", records[axis], [runs.axes[axis] for runs in added])
    swept = {tuple(scale) for scale in records[list(columns.scales)].to_numpy(dtype=float)}
    at_swept = [runs for runs in added if tuple(runs.axes[axis] for axis in columns.scales) in swept]
    for k, name in enumerate(columns.tuned):
        values = [value[k] for runs in at_swept for value in runs.values()]
        overrides += _override(f"space.{name}.values", records[name], values)
    command = shlex.join(["hptransfer", *_replaced(words, overrides), *overrides])
    return f"add runs with `{command}`" if overrides and len(command) <= LONGEST_COMMAND else None


def _override(key: str, existing: Iterable[float], added: Iterable[float]) -> list[str]:
    """Return the override that adds values to a list, if any."""
    values = {canonical(float(value)) for value in existing}
    further = {canonical(float(value)) for value in added} - values
    if not further:
        return []
    text = ",".join(plain_exponent(exact(value)) for value in sorted(values | further))
    return [f"{key}=[{text}]"]


def _last_command(folder: RunFolder) -> list[str]:
    """Return the words after `hptransfer` that last trained the sweep, without options."""
    if not folder.environment.exists() or not folder.sweep.exists():
        return []
    sampler = SAMPLER.search(read_text(folder.sweep))
    if sampler and sampler.group(1) != GRID:
        return []
    words = read_json(folder.environment, "command")["command"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or words[1:2] != ["sweep"]:
        return []
    kept = [
        word
        for before, word in itertools.pairwise(words)
        if not word.startswith("--") and before not in OPTIONS_WITH_VALUE
    ]
    return [] if any(HIDDEN in word for word in kept) else kept


def _replaced(words: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return words without the overrides that others replace.

    A list of values replaces their bounds, too.
    """
    places = tuple(override.partition("=")[0].removesuffix("values") for override in overrides)
    ends = ("values", "low", "high", "count")
    replaced = {f"{place}{end}" for place in places for end in ends}
    return [word for word in words if word.partition("=")[0].lstrip("+") not in replaced]
