"""Response that is fitted: the log of the loss, or its differences.

A loss above 0 is fitted by its logarithm, in which curvature and noise are shares of the loss. A loss at or below 0
has no logarithm, nor has a metric to be maximized. Their differences are fitted instead, in a unit that the runs
show: ten times the usual excess of a run over the best of its scale. A usual excess is then 0.1, as in log losses, and
the priors of curvature and noise hold for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]

# Usual excess of a run over the best of its scale, in log loss or in units of a response of differences.
USUAL_EXCESS = 0.1


@dataclass(frozen=True)
class Response:
    """Response that is fitted, as a function of the loss.

    Attributes:
        unit: of the differences, in that of the loss; None for the log of the loss.
    """

    unit: float | None = None

    @classmethod
    def of_losses(cls, losses: Values, scale: NDArray[np.intp], *, maximized: bool) -> Response:
        """Return the response that fits losses.

        Args:
            losses: to be minimized, (runs,); infinite for a diverged run.
            scale: index of each run's scale.
            maximized: True if the losses are the negative of a metric to be maximized.
        """
        finite = np.isfinite(losses)
        if not maximized and not (losses[finite] <= 0).any():
            return cls()
        by_scale = [losses[finite & (scale == index)] for index in np.unique(scale[finite])]
        excess = [float(np.median(own - own.min())) for own in by_scale]
        usual = float(np.median(excess)) if excess else 0.0
        spread = usual or max(excess, default=0.0) or 1.0  # of losses that are all equal, any unit will do
        return cls(spread / USUAL_EXCESS)

    @property
    def name(self) -> str:
        """Name of the quantity whose deviations `size` returns."""
        return "log loss" if self.unit is None else "loss"

    def size(self, deviation: float) -> float:
        """Return a deviation of the response for people."""
        return deviation if self.unit is None else self.unit * deviation

    def of(self, losses: Values) -> Values:
        """Return the response of losses."""
        with np.errstate(invalid="ignore", divide="ignore"):
            response: Values = np.log(losses) if self.unit is None else losses / self.unit
        return response

    def loss(self, response: Values) -> Values:
        """Return the losses of responses."""
        losses: Values = np.exp(response) if self.unit is None else response * self.unit
        return losses

    def excess_loss(self, excess: Values, loss: float | Values) -> Values:
        """Return the loss above a loss, of an excess in the response."""
        above: Values = loss * np.expm1(excess) if self.unit is None else self.unit * excess
        return above

    def slope(self, loss: float) -> float:
        """Return the derivative of the loss by its response, at a loss."""
        return loss if self.unit is None else self.unit

    def percent(self, above: float, loss: float) -> float:
        """Return a difference of losses in percent; NaN where differences are fitted."""
        return 100 * above / loss if self.unit is None else float("nan")
