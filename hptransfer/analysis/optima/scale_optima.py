"""The optimum of every scale, as its own runs have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.analysis.optima.estimators import OptimaEstimate
from hptransfer.analysis.tables.arrays import Array, Axes, Mask, Runs

BRACKETED = "bracketed"
EDGE_LOW = "edge, low"
EDGE_HIGH = "edge, high"
BOUNDED = "bounded by divergence"
TOO_FEW = "too few runs"
# A scale whose own runs place its optimum no better than this says next to nothing of it.
LOOSE_OCTAVES = 1.5


@dataclass(frozen=True, eq=False)
class Optimum:
    """The optimum of one scale, as its own runs have it, the bowl's shape being that of all.

    Attributes:
        x: log2 of the optimum, by tuned hyperparameter, and `se` its standard error in octaves, infinite where the
            runs say nothing.
        curvature: of the loss, nats per octave squared, by tuned hyperparameter, the others held.
        loss: nats at the optimum.
        status: by tuned hyperparameter: BRACKETED, or why it is not.
        tried: lowest and highest log2 of what was tried, by tuned hyperparameter.
    """

    axes: Axes
    x: Array
    se: Array
    curvature: Array
    loss: float
    status: tuple[str, ...]
    tried: Array
    runs: int
    diverged: int

    @property
    def bracketed(self) -> bool:
        return all(status == BRACKETED for status in self.status)


def find_optima(runs: Runs, found: Sequence[OptimaEstimate], shapes: Sequence[OptimaEstimate]) -> list[Optimum]:
    """Of every scale, cheapest first."""
    own = [one.told.own() for one in found]
    x = np.mean([place for place, _ in own], axis=0)
    se = np.mean([error for _, error in own], axis=0)
    intercepts = np.mean([one.intercepts for one in shapes], axis=0)
    bends = np.mean([one.curvature for one in shapes], axis=0)
    guided = np.mean([one.surface.x for one in shapes if one.surface], axis=0)
    optima = []
    for place, axes in enumerate(runs.scales):
        mask = runs.of_scale(place)
        finite = mask & np.isfinite(runs.loss)
        tight = se[place] < LOOSE_OCTAVES
        loss = float(np.exp(intercepts[place])) if np.isfinite(intercepts[place]) else float("nan")
        optima.append(
            Optimum(
                axes=axes,
                x=np.minimum(np.where(tight, x[place], guided[place]), runs.columns.upper),
                se=np.where(tight, se[place], np.inf),
                curvature=loss * np.diag(bends[place]),
                loss=loss,
                status=_status(runs, mask, finite, tight),
                tried=np.stack([runs.x[mask].min(axis=0), runs.x[mask].max(axis=0)], axis=1),
                runs=int(mask.sum()),
                diverged=int((mask & ~finite).sum()),
            )
        )
    return optima


def _status(runs: Runs, mask: Mask, finite: Mask, tight: Mask) -> tuple[str, ...]:
    """Whether the best of a scale lies inside what was tried, by tuned hyperparameter."""
    if not finite.any():
        return (TOO_FEW,) * len(tight)
    best = np.flatnonzero(finite)[np.argmin(runs.loss[finite])]
    found = []
    for k, placed in enumerate(tight):
        low, high = runs.x[finite, k].min(), runs.x[finite, k].max()
        if low == high:
            found.append(TOO_FEW)
        elif runs.x[best, k] == low:
            found.append(EDGE_LOW)
        elif runs.x[best, k] == high:
            found.append(BOUNDED if runs.x[mask, k].max() > high else EDGE_HIGH)
        else:
            found.append(BRACKETED if placed else TOO_FEW)
    return tuple(found)
