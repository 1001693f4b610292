"""Finished runs of a table as arrays, the input of estimators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hptransfer.analysis.tables.columns import SEED, Columns
from hptransfer.analysis.tables.response import Response
from hptransfer.analysis.tables.scale_names import format_scale

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]
Axes = Mapping[str, float]

# Tuned values of a scale that a seed must have run at to have its own intercept there.
# Each such seed has its own intercept, so only differences within a seed enter the fit.
OWN_INTERCEPT = 3
LOG_RESPONSE = Response()


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of all scales, cheapest scale first.

    Attributes:
        scales: the axes of every scale.
        flops: of one run at every scale; the product of its axes if the table lacks the column.
        x: log2 of the tuned values, (runs, tuned).
        loss: as in the table, to be minimized, (runs,); infinite for a diverged run.
        response: the response to be fitted.
        scale: index of each run's scale.
        intercept: index of the intercept of each run's loss: one per scale, or one per seed of it.
        rows: of the table, for messages; the first one below the header is 1, or the index of a DataFrame.
        outlier: True for a run whose loss is infinite because it is an outlier, (runs,).
    """

    columns: Columns
    scales: Sequence[Axes]
    flops: Array
    x: Array
    loss: Array
    scale: Index
    intercept: Index
    rows: Sequence[int | str]
    outlier: Mask
    response: Response = LOG_RESPONSE

    @classmethod
    def of(cls, table: pd.DataFrame, columns: Columns) -> Runs:
        """Return the runs of a table that check_table has checked."""
        axes = table[list(columns.scales)].to_numpy(dtype=float)
        distinct, scale = np.unique(axes, axis=0, return_inverse=True)
        scale = scale.reshape(-1)
        size = np.prod(distinct, axis=1)
        if "flops" in table:
            size = np.bincount(scale, table["flops"].to_numpy(dtype=float)) / np.bincount(scale)
        order = np.lexsort((*distinct.T[::-1], size))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        x = np.log2(table[list(columns.tuned)].to_numpy(dtype=float))
        loss = table[columns.loss].to_numpy(dtype=float)
        return cls(
            columns=columns,
            scales=[dict(zip(columns.scales, map(float, distinct[index]), strict=True)) for index in order],
            flops=size[order],
            x=x,
            loss=loss,
            scale=rank[scale],
            intercept=_intercept_index(table, x, rank[scale]),
            rows=[row + 1 if isinstance(row, int) else str(row) for row in table.index.tolist()],
            outlier=np.zeros(len(table), dtype=bool),
            response=Response.of_losses(loss, rank[scale], maximized=columns.objective.maximized),
        )

    @property
    def y(self) -> Array:
        """Responses of the losses, (runs,)."""
        return self.response.of(self.loss)

    @property
    def num_scales(self) -> int:
        """Number of scales."""
        return len(self.scales)

    def octaves(self, scales: Sequence[Axes]) -> Array:
        """Return log2 of axes over the middle of the range, (scales, axes)."""
        logs, swept = (
            np.log2([[scale[axis] for axis in self.columns.scales] for scale in group])
            for group in (scales, self.scales)
        )
        octaves: Array = logs - (swept.min(axis=0) + swept.max(axis=0)) / 2
        return octaves

    def format_scale(self, axes: Axes) -> str:
        """Return a scale as text that no other swept scale has."""
        return format_scale(axes, self.scales)

    def of_scale(self, index: int) -> Mask:
        """Return a mask of the runs of one scale."""
        mask: Mask = self.scale == index
        return mask


def _intercept_index(table: pd.DataFrame, x: Array, scale: Index) -> Index:
    """Return the index of each run's intercept.

    A seed that ran at several values of a scale has its own intercept there; the other runs of the scale share one.
    """
    if SEED not in table:
        return scale
    frame = pd.DataFrame({"scale": scale, "seed": table[SEED].to_numpy()})
    frame["point"] = pd.DataFrame(x).groupby(list(range(x.shape[1]))).ngroup().to_numpy()
    values = frame.groupby(["scale", "seed"])["point"].transform("nunique")
    seed = frame["seed"].where(values >= OWN_INTERCEPT, -1)
    return pd.DataFrame({"scale": scale, "seed": seed}).groupby(["scale", "seed"]).ngroup().to_numpy().astype(np.intp)
