"""Information of a run that a table of another source lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Title of a page, and information from a run folder.

    Attributes:
        target: content of target.json.
        verification: content of verification.json.
        states: trials of the sweep by state.
        failed: failed trials by `Scale.key`.
        uncounted: number of rows that are not used, by their state.
        flops: training FLOPs of the sweep's finished trials.
        warnings: to show before those of the fit.
    """

    title: str
    target: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    flops: float = 0.0
    warnings: Sequence[str] = ()
