"""Response shape: rise of the response above a scale's optimum.

    u = log2 of the tuned values minus the scale's optimum                      (octaves)
    p_k = u_k - sum over j > k of gamma_kj u_j                                  (a ridge: tuned axes interact)
    log A_k = a_k + sum over axes of t_k,axis log2(axis over its middle)        (curvature moves with scale)
    kappa_k = k_k + sum over axes of s_k,axis log2(axis over its middle)        (so do the sides)
    phi = 2 (exp(kappa p) - 1 - kappa p) / kappa^2 or p^2 (1 + kappa p / 3)     (unequal sides; p^2 at kappa 0)
    excess = sum over k of A_k phi(kappa_k, p_k)                                (response above the optimum)

Unequal sides matter most: the loss rises faster at high learning rates, so the optimum of a parabola is biased low. The
published runs of Step Law (arXiv:2503.04715) show them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hptransfer.analysis.tables.arrays import Array

FORMS = ("linear-exponential", "cubic")
# Exponentials continue as a straight line beyond this exponent, so that far runs do not overflow.
STEEP = 5.0
# The low side of the cubic form continues as a parabola from here, where it would otherwise turn down.
TURN = -2.0


@dataclass(frozen=True, eq=False)
class ResponseShape:
    """Response shape with its parameters.

    Attributes:
        theta: parameters in the order of ShapePrior.rows.
    """

    form: str
    tuned: int
    axes: int
    theta: Array

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of tuned hyperparameters, each with a ridge of its own."""
        return [(k, j) for k in range(self.tuned) for j in range(k + 1, self.tuned)]

    @cached_property
    def _parts(self) -> tuple[Array, Array, Array, Array, Array]:
        """Log curvature, its trend, skew, its trend, and ridges.

        Shapes: (tuned,), (tuned, axes), (tuned,), (tuned, axes) and (pairs,).
        """
        k, a = self.tuned, self.axes
        sizes = [k, k * a, k, k * a]
        log_a, trend, skew, skew_trend, ridge = np.split(self.theta, np.cumsum(sizes))
        return log_a, trend.reshape(k, a), skew, skew_trend.reshape(k, a), ridge

    def excess(self, u: Array, octaves: Array) -> Array:
        """Return the response above the optimum, (runs,).

        Args:
            u: octaves from the optimum, (runs, tuned).
            octaves: of the runs' scales, (runs, axes).
        """
        excess: Array = self._terms(u, octaves)[0].sum(axis=1)
        return excess

    def curvature(self, octaves: Array) -> Array:
        """Return the response per octave squared along each p_k, (scales, tuned)."""
        log_a, trend, *_ = self._parts
        curvature: Array = np.exp(log_a + octaves @ trend.T)
        return curvature

    def hessian(self, octaves: Array) -> Array:
        """Return half of the response's Hessian at an optimum, (tuned, tuned).

        Args:
            octaves: of the scale, (axes,).
        """
        sheared = self._sheared(np.eye(self.tuned)).T
        half: Array = sheared.T @ np.diag(self.curvature(octaves[None])[0]) @ sheared
        return half

    def _sheared(self, u: Array) -> Array:
        p = u.copy()
        for (k, j), gamma in zip(self.pairs, self._parts[4], strict=True):
            p[:, k] -= gamma * u[:, j]
        return p

    def _terms(self, u: Array, octaves: Array) -> tuple[Array, Array, Array, Array]:
        """Return the terms of the excess and their derivatives.

        Terms, derivatives by p and by kappa, and p: all are (runs, tuned).
        """
        phi = _PHI[self.form]
        _, _, skew, skew_trend, _ = self._parts
        p, scale, skews = self._sheared(u), self.curvature(octaves), skew + octaves @ skew_trend.T
        parts = [np.stack(phi(skews[:, k], p[:, k])) for k in range(self.tuned)]
        value, by_p, by_skew = (scale * np.stack([part[row] for part in parts], axis=1) for row in range(3))
        return value, by_p, by_skew, p

    def linearized(self, u: Array, octaves: Array) -> tuple[Array, Array, Array]:
        """Return the excess and its derivatives by the optimum and the shape.

        Returns:
            (runs,), (runs, tuned) and (runs, parameters).
        """
        value, by_p, by_skew, _ = self._terms(u, octaves)
        by_x = -by_p
        for (k, j), gamma in zip(self.pairs, self._parts[4], strict=True):
            by_x[:, j] += gamma * by_p[:, k]
        by_trend, by_skew_trend = ([by[:, [k]] * octaves for k in range(self.tuned)] for by in (value, by_skew))
        by_ridge = [-by_p[:, [k]] * u[:, [j]] for k, j in self.pairs]
        by_shape = np.concatenate([value, *by_trend, by_skew, *by_skew_trend, *by_ridge], axis=1)
        return value.sum(axis=1), by_x, by_shape


def _linear_exponential(kappa: Array, p: Array) -> tuple[Array, Array, Array]:
    z, flat = kappa * p, np.abs(kappa) < 1e-2
    k = np.where(flat, 1.0, kappa)
    inner = np.minimum(np.where(flat, 0.0, z), STEEP)
    grown = np.expm1(inner)
    value, slope = 2 * (grown - inner) / k**2, 2 * grown / k
    beyond = np.where(flat, 0.0, (z - inner) / k)
    by_kappa = np.where(z > STEEP, 0.0, 2 * p * grown / k**2 - 2 * value / k)
    return (
        np.where(flat, p**2 * (1 + z / 3 + z**2 / 12), value + slope * beyond),
        np.where(flat, 2 * p * (1 + z / 2 + z**2 / 6), slope),
        np.where(flat, p**3 / 3 + kappa * p**4 / 6, by_kappa),
    )


def _cubic(kappa: Array, p: Array) -> tuple[Array, Array, Array]:
    z, turned = kappa * p, kappa * p < TURN
    value = p**2 * (1 + np.maximum(z, TURN) / 3)
    slope = np.where(turned, 2 * p * (1 + TURN / 3), 2 * p + kappa * p**2)
    return value, slope, np.where(turned, 0.0, p**3 / 3)


_PHI: dict[str, Callable[[Array, Array], tuple[Array, Array, Array]]] = {
    "linear-exponential": _linear_exponential,
    "cubic": _cubic,
}
