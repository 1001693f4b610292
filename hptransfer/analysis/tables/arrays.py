"""A table's finished runs as arrays: what the estimators work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hptransfer.analysis.tables.columns import SEED, Columns
from hptransfer.analysis.tables.scale_names import format_scale

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]
Axes = Mapping[str, float]

# Seeds that ran at so many values of a scale have a intercept of their own there.
OWN_INTERCEPT = 3


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of all scales, cheapest scale first.

    Attributes:
        scales: the axes of every scale.
        flops: of one run at every scale; the product of its axes if the table does not say.
        x: log2 of the tuned values, (runs, tuned).
        loss: as the table has it, (runs,); infinite where a run diverged.
        scale: index of each run's scale.
        intercept: index of what shares a level of the loss: the scale's runs, or those of one of its seeds.
    """

    columns: Columns
    scales: Sequence[Axes]
    flops: Array
    x: Array
    loss: Array
    scale: Index
    intercept: Index

    @classmethod
    def of(cls, table: pd.DataFrame, columns: Columns) -> Runs:
        """
        Args:
            table: as records.check_table leaves it.
        """
        axes = table[list(columns.scales)].to_numpy(dtype=float)
        found, scale = np.unique(axes, axis=0, return_inverse=True)
        scale = scale.reshape(-1)
        size = np.prod(found, axis=1)
        if "flops" in table:
            size = np.bincount(scale, table["flops"].to_numpy(dtype=float)) / np.bincount(scale)
        order = np.lexsort((*found.T[::-1], size))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        x = np.log2(table[list(columns.tuned)].to_numpy(dtype=float))
        return cls(
            columns=columns,
            scales=[dict(zip(columns.scales, map(float, found[place]), strict=True)) for place in order],
            flops=size[order],
            x=x,
            loss=table[columns.loss].to_numpy(dtype=float),
            scale=rank[scale],
            intercept=_intercepts(table, x, rank[scale]),
        )

    @property
    def num_scales(self) -> int:
        return len(self.scales)

    def octaves(self, scales: Sequence[Axes]) -> Array:
        """log2 of scales' axes over the middle of those that were run, (scales, axes)."""
        logs, seen = (
            np.log2([[one[axis] for axis in self.columns.scales] for one in some]) for some in (scales, self.scales)
        )
        found: Array = logs - (seen.min(axis=0) + seen.max(axis=0)) / 2
        return found

    def format_scale(self, axes: Axes) -> str:
        """Return a scale as text that differs from the text of every swept scale."""
        return format_scale(axes, self.scales)

    def of_scale(self, place: int) -> Mask:
        """Which runs are of one scale."""
        mask: Mask = self.scale == place
        return mask


def _intercepts(table: pd.DataFrame, x: Array, scale: Index) -> Index:
    """The scale, and within it each seed that ran at several values; the others share one."""
    if SEED not in table:
        return scale
    frame = pd.DataFrame({"scale": scale, "seed": table[SEED].to_numpy()})
    frame["point"] = pd.DataFrame(x).groupby(list(range(x.shape[1]))).ngroup().to_numpy()
    values = frame.groupby(["scale", "seed"])["point"].transform("nunique")
    own = frame["seed"].where(values >= OWN_INTERCEPT, -1)
    return pd.DataFrame({"scale": scale, "own": own}).groupby(["scale", "own"]).ngroup().to_numpy().astype(np.intp)
