"""Checks of whole trainings: is wider better at every time, and does training converge as width grows?

Each trains the run's own budget and schedule at several widths, several seeds each; batches are the same for all.

Sources: wider is better, the mup package (arXiv:2203.03466); convergence, dynamical mean-field theory of
parameterizations that learn features (arXiv:2205.09653, 2309.16620).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hptransfer.coordcheck.check import Check, CheckRow, log_slope
from hptransfer.coordcheck.measurements import at_size, stacks
from hptransfer.coordcheck.theory import expected_failure
from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig

WINDOWS = 8
# Standard errors: by chance one of eight windows is worse by so much in less than 1 of 100 checks.
WORSE = 3.5
# What the variance over seeds is held to, as -1, and the examples whose outputs it is taken of.
CONVERGES = 0.25
EXAMPLES = 256
VARIANCE, DISTANCE = "variance over seeds of outputs", "distance to the widest's curve"
TRAINED = "after training"


def wider_check(run: RunConfig, *, widths: Sequence[int], seeds: int = 8) -> Check:
    """Training loss over the run's whole budget: at every time a wider model has the lower one (mup package).

    The run in eight windows; a wider model counts as worse if it is by more than `WORSE` standard errors of the
    difference over seeds, all windows' differences pooled.

    Raises:
        ConfigError: fewer steps than windows, or a single seed.
    """
    if run.steps < WINDOWS or seeds < 2:
        raise ConfigError(
            f"check=wider compares {WINDOWS} windows of a run over seeds, got {run.steps} steps and seeds={seeds}; "
            f"raise run.tokens to {WINDOWS * run.tokens_a_step} at least, and seeds to 2"
        )
    widths = sorted(widths)
    curves = []
    for width in widths:
        losses, _ = trained(at_size(run, "width", width), seeds)
        curves.append(np.stack([part.mean(axis=0) for part in np.array_split(losses, WINDOWS)]))  # windows x seeds
    fails = []
    for index in range(1, len(widths)):
        difference = curves[index] - curves[index - 1]
        error = (difference.var(axis=1, ddof=1).mean() / seeds) ** 0.5
        worse = ~(difference.mean(axis=1) - WORSE * error <= 0)  # NaN is
        fails += [
            f"width {widths[index]} is worse than {widths[index - 1]} in window {window + 1}: by "
            f"{difference[window].mean():.4f} nats"
            for window in np.flatnonzero(worse)
        ]
    columns = [f"window {window + 1}" for window in range(WINDOWS)]
    row = CheckRow("training loss", [list(map(float, curve.mean(axis=1))) for curve in curves], [], [])
    return Check("training loss", "width", list(widths), columns, [row], 0.0, fails, expected_failure(run))


def convergence_check(run: RunConfig, *, widths: Sequence[int], seeds: int = 16) -> Check:
    """What seeds disagree on vanishes as 1/width, and training curves approach the widest net's.

    Judged are the variance over seeds of the outputs for held-out examples after training, whose slope against width
    is to be -1, and the root mean square distance between a width's training curve, its mean over seeds, and the
    widest's, which is to fall from each width to the next.
    """
    examples, _ = run.data.load().validation(windows=min(EXAMPLES, run.validation_windows), sequence=run.sequence)
    widths = sorted(widths)
    variances, curves = [], []
    for width in widths:
        losses, outputs_KBSO = trained(at_size(run, "width", width), seeds, examples)
        variances.append(float(outputs_KBSO.var(dim=0).mean()))
        curves.append(losses.mean(axis=1))
    distances = [float(np.sqrt(((curve - curves[-1]) ** 2).mean())) for curve in curves]
    falls = log_slope(widths, variances)
    fails = []
    if not abs(falls + 1) <= CONVERGES:
        fails.append(f"{VARIANCE}, {TRAINED}: slope {falls:+.2f}, not -1")
    fails += [
        f"{DISTANCE}: that of width {width}, {near:.3g} nats, is not below that of {narrower}, {far:.3g}"
        for narrower, width, far, near in zip(widths, widths[1:], distances, distances[1:], strict=False)
        if not near < far
    ]
    rows = [
        CheckRow(VARIANCE, [[one] for one in variances], [falls], [True], prescribed=-1.0),
        CheckRow(DISTANCE, [[one] for one in distances], [log_slope(widths[:-1], distances[:-1])], [False]),
    ]
    return Check("convergence", "width", list(widths), [TRAINED], rows, CONVERGES, fails, expected_failure(run))


def trained(run: RunConfig, seeds: int, examples: Tensor | None = None) -> tuple[NDArray[np.float64], Tensor]:
    """Training losses of a run's whole budget, (steps, seeds), and then the outputs for examples, seeds first."""
    data = run.data.load()
    curves, outputs = [], []
    for stack in stacks(run, seeds):
        losses = []
        for step in range(run.steps):
            inputs, targets = data.batch(seed=run.data_seed, step=step, batch=run.batch, sequence=run.sequence)
            losses.append(stack.step(inputs, targets, step))
        curves.append(torch.stack(losses).double().numpy())
        if examples is not None:
            with torch.no_grad():
                outputs.append(stack.outputs(examples).double())
    return np.concatenate(curves, axis=1), torch.cat(outputs) if outputs else torch.empty(0)
