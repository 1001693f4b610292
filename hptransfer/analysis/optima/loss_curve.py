"""Smooth curve through the losses of one scale, for verifications."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from hptransfer.analysis.tables.arrays import Array

# A loss above the least by this factor is left out, because a curve through it would oscillate; where the least is not
# above 0, one whose excess is this multiple of the median excess. This number of points is kept in any case.
FAR_FACTOR, FAR_EXCESS, FEWEST_POINTS = 3.0, 10.0, 3


class LossCurve:
    """Smooth curve through the finite points of one scale.

    An Akima spline, or PCHIP below five points; points with far larger losses are left out.

    Args:
        values: tuned values, above 0.
        losses: to be minimized, finite.
    """

    def __init__(self, values: Sequence[float], losses: Sequence[float]) -> None:
        order = np.argsort(values)
        x, y = np.log2(np.asarray(values, dtype=float)[order]), np.asarray(losses, dtype=float)[order]
        least = y.min()
        far = (FAR_FACTOR - 1) * least if least > 0 else FAR_EXCESS * np.median(y - least)
        kept = (y <= least + far) | (y <= np.sort(y)[min(FEWEST_POINTS, len(y)) - 1])
        self.x: Array = x[kept]
        self.y: Array = y[kept]
        spline = Akima1DInterpolator if len(self.x) >= 5 else PchipInterpolator
        self._curve = spline(self.x, self.y)

    def at(self, x: float) -> float:
        """Return the loss at log2 of a value.

        Raises:
            ValueError: x lies outside the points of the curve.
        """
        if not self.x[0] - 1e-9 <= x <= self.x[-1] + 1e-9:
            raise ValueError(f"{x} lies outside the curve, {self.x[0]} to {self.x[-1]}")
        return float(self._curve(min(max(x, self.x[0]), self.x[-1])))

    def minimum(self) -> tuple[float, float]:
        """Return log2 of the best value on the curve, and its loss."""
        fine = np.union1d(np.linspace(self.x[0], self.x[-1], 2001), self.x)  # never above a point
        losses = self._curve(fine)
        best = int(np.argmin(losses))
        return float(fine[best]), float(losses[best])
