"""Simulated sweeps of problems with known best learning rates, to test the coverage of intervals.

A sweep draws a problem of its kind, a grid of rates and the noise of its losses, which is normal in the log loss. The
truth is the minimum of the exact loss at the target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from tests.support.quadratics import (
    best_rate,
    lms_best_rate,
    lms_loss,
    power_law,
    power_law_largest_rate,
    power_law_loss,
    sign_best_rate,
)

Loss = Callable[[float], float]
# Rates per scale, half an octave to an octave apart, about a centre that is off by up to one octave.
RATES = 11


@dataclass(frozen=True)
class Sweep:
    """Table of runs with the true optimum.

    Attributes:
        truth: log2 of the target's best rate.
    """

    table: pd.DataFrame
    columns: Columns
    target: dict[str, float]
    truth: float


def lms(setting: int) -> tuple[dict[tuple[float, ...], Loss], list[str], tuple[float, ...]]:
    """H.1: isotropic regression, axes width and steps.

    With noise the best rate falls with steps.
    """
    random = np.random.default_rng([1, setting])
    batch, variance = int(random.choice([2, 4, 8])), float(random.choice([0.0, 0.1, 0.5]))
    widths, steps = (16, 32, 64, 128), (64, 128, 256)

    def loss(width: float, count: float) -> Loss:
        largest = 2 * lms_best_rate(dimensions=int(width), batch=batch)  # the loss only grows beyond it

        def at(rate: float) -> float:
            if rate >= largest:
                return math.inf
            return lms_loss(rate, dimensions=int(width), batch=batch, steps=int(count), noise_variance=variance)

        return at

    scales = {scale: loss(*scale) for scale in (*itertools.product(widths, steps), (256, 512))}
    return scales, ["width", "steps"], (256, 512)


def noisy_quadratic(setting: int) -> tuple[dict[tuple[float, ...], Loss], list[str], tuple[float, ...]]:
    """H.2: power-law spectrum and target, axes steps and batch."""
    random = np.random.default_rng([2, setting])
    decay, target = 1.5, float(random.choice([0.5, 0.75, 1.0]))
    spectrum, start = power_law(300, decay), power_law(300, target)

    def loss(steps: float, batch: float) -> Loss:
        largest = power_law_largest_rate(spectrum=spectrum, batch=int(batch))

        def at(rate: float) -> float:
            if rate >= largest:
                return math.inf
            given = {"spectrum": spectrum, "start": start, "batch": int(batch), "steps": int(steps)}
            return power_law_loss(rate, **given, noise_variance=1.0)

        return at

    scales = {scale: loss(*scale) for scale in (*itertools.product((32, 64, 128, 256), (1, 2, 4)), (512, 8))}
    return scales, ["steps", "examples"], (512, 8)


def sign_descent(setting: int) -> tuple[dict[tuple[float, ...], Loss], list[str], tuple[float, ...]]:
    """H.3: one step of sign descent, axis batch.

    The best rate grows as the square root of the batch and then saturates.
    """
    random = np.random.default_rng([3, setting])
    theta = 0.1 * np.random.default_rng(0).standard_normal(400)
    noise = float(random.choice([0.3, 1.0, 3.0]))  # more noise would hide the optimum of small batches

    def loss(batch: float) -> Loss:
        best = sign_best_rate(theta, gradient_noise=noise, batch=int(batch))
        return lambda rate: float(np.mean(theta**2)) / 2 - rate * best + rate**2 / 2

    return {(batch,): loss(batch) for batch in (1, 2, 4, 8, 16, 32, 64, 256)}, ["examples"], (256,)


def landscape(setting: int) -> tuple[dict[tuple[float, ...], Loss], list[str], tuple[float, ...]]:
    """H.6: a parabola with a steeper far side.

    Its optimum follows a power law, in some problems with a drift in 1/width.
    """
    random = np.random.default_rng([6, setting])
    powers, drift = random.uniform(-1, 0.5, 2), float(random.choice([0.0, 0.5]))
    bend, steep = float(random.choice([0.011, 0.03])), float(random.choice([0.0, 0.01]))

    def loss(width: float, tokens: float) -> Loss:
        best = -7 + powers[0] * math.log2(width / 64) + powers[1] * math.log2(tokens / 2**20) - drift * 64 / width
        level = 1.7 + 2.0 * (width / 64) ** -0.3 + 1.0 * (tokens / 2**20) ** -0.25

        def at(rate: float) -> float:
            x = math.log2(rate) - best
            return level + bend * x**2 + steep * max(0.0, x - 2) ** 3

        return at

    scales = itertools.product((64, 128, 256, 512), (2**20, 2**21, 2**22))
    return {scale: loss(*scale) for scale in (*scales, (1024, 2**23))}, ["width", "tokens"], (1024, 2**23)


KINDS = {"H.1": lms, "H.2": noisy_quadratic, "H.3": sign_descent, "H.6": landscape}


Exact = dict[tuple[float, ...], tuple[np.ndarray, np.ndarray, float]]


@cache
def _exact(kind: str, setting: int) -> tuple[Exact, list[str], tuple[float, ...]]:
    """Return rates, exact losses and log2 of the best rate of every scale.

    A loss is infinite if it ends above its start.
    """
    scales, axes, target = KINDS[kind](setting)
    random = np.random.default_rng([9, setting])
    exact = {}
    for scale, loss in scales.items():
        start = loss(0.0) if kind != "H.6" else math.inf
        best = math.log2(best_rate(loss, low=2.0**-16, high=4.0))
        spacing = random.choice([0.5, 0.75, 1.0])
        x = best + random.uniform(-1, 1) + spacing * (np.arange(RATES) - RATES // 2)
        losses = np.array([loss(2.0**rate) for rate in x])
        exact[scale] = (2.0**x, np.where(losses <= start, losses, math.inf), best)
    return exact, axes, target


def simulate(kind: str, setting: int, seed: int, *, noise: float = 0.004, scatter: float = 0.0) -> Sweep:
    """Simulate one sweep.

    Args:
        setting: number of the problem of its kind, and of its grid.
        seed: of the noise of the losses.
        noise: standard deviation of a log loss.
        scatter: standard deviation of the scales' optima about the problem's in octaves, including the target's.
    """
    exact, axes, target = _exact(kind, setting)
    random = np.random.default_rng([7, setting, seed])
    columns = Columns(scales=tuple(axes), tuned=("lr",))
    off = dict(zip(exact, scatter * np.random.default_rng([8, setting, seed]).standard_normal(len(exact)), strict=True))
    rows = []
    for scale, (centred, losses, _) in exact.items():
        if scale == target:
            continue
        rates = centred * 2.0 ** off[scale]
        noisy = losses * np.exp(noise * random.standard_normal(len(losses)))
        values = dict(zip(axes, scale, strict=True))
        rows += [{**values, "lr": rate, "loss": loss} for rate, loss in zip(rates, noisy, strict=True)]
    table = check_table(pd.DataFrame(rows), columns, "simulated")
    return Sweep(table, columns, dict(zip(axes, target, strict=True)), exact[target][2] + off[target])
