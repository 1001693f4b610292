"""Checks of whole trainings: wider is better, training converges with width.

Each check trains the run's own budget and schedule at several widths with several seeds; all have the same batches.

Sources: wider is better, the mup package (arXiv:2203.03466); convergence, dynamical mean-field theory of
parameterizations that learn features (arXiv:2205.09653, 2309.16620).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hptransfer.coordcheck.judgement import Check, CheckRow, log_slope
from hptransfer.coordcheck.measurements import at_size, stacks
from hptransfer.coordcheck.theory import expected_failure
from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig

WINDOWS = 8
# Standard errors by which a window counts as worse: one of eight is by chance in less than 1 of 100 checks.
WORSE_ERRORS = 3.5
# Tolerance of the slope -1 of the variance over seeds, and the number of examples whose outputs vary.
VARIANCE_SLOPE_TOLERANCE = 0.25
MAX_EXAMPLES = 256
VARIANCE, DISTANCE = "variance over seeds of outputs", "distance to the widest's curve"
TRAINED = "after training"


def wider_check(run: RunConfig, *, widths: Sequence[int], seeds: int = 8) -> Check:
    """Check that a wider model always has the lower training loss.

    The run's whole budget is parted into eight windows (mup package). A wider model counts as worse in a window if its
    loss is higher by more than `WORSE_ERRORS` standard errors of the difference over seeds, pooled over windows.

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
        losses, _ = train_seeds(at_size(run, "width", width), seeds)
        curves.append(np.stack([part.mean(axis=0) for part in np.array_split(losses, WINDOWS)]))  # windows x seeds
    fails = []
    for index in range(1, len(widths)):
        difference = curves[index] - curves[index - 1]
        error = (difference.var(axis=1, ddof=1).mean() / seeds) ** 0.5
        worse = ~(difference.mean(axis=1) - WORSE_ERRORS * error <= 0)  # NaN counts as worse
        fails += [
            f"width {widths[index]} is worse than {widths[index - 1]} in window {window + 1}: by "
            f"{difference[window].mean():.4f} nats"
            for window in np.flatnonzero(worse)
        ]
    columns = [f"window {window + 1}" for window in range(WINDOWS)]
    row = CheckRow("training loss", [list(map(float, curve.mean(axis=1))) for curve in curves], [], [])
    return Check("training loss", "width", list(widths), columns, [row], 0.0, fails, expected_failure(run))


def convergence_check(run: RunConfig, *, widths: Sequence[int], seeds: int = 16) -> Check:
    """Check that training converges as width grows.

    The variance over seeds of the outputs for held-out examples after training must have slope -1 against width. The
    root mean square distance between a width's training curve (its mean over seeds) and the widest's must fall from
    each width to the next.
    """
    examples, _ = run.data.load().validation(windows=min(MAX_EXAMPLES, run.validation_windows), sequence=run.sequence)
    widths = sorted(widths)
    variances, curves = [], []
    for width in widths:
        losses, outputs_KBSO = train_seeds(at_size(run, "width", width), seeds, examples)
        variances.append(float(outputs_KBSO.var(dim=0).mean()))
        curves.append(losses.mean(axis=1))
    distances = [float(np.sqrt(((curve - curves[-1]) ** 2).mean())) for curve in curves]
    slope = log_slope(widths, variances)
    fails = []
    if not abs(slope + 1) <= VARIANCE_SLOPE_TOLERANCE:
        fails.append(f"{VARIANCE}, {TRAINED}: slope {slope:+.2f}, not -1")
    fails += [
        f"{DISTANCE}: that of width {width}, {distance:.3g} nats, is not below that of {narrower}, {previous:.3g}"
        for narrower, width, previous, distance in zip(widths, widths[1:], distances, distances[1:], strict=False)
        if not distance < previous
    ]
    rows = [
        CheckRow(VARIANCE, [[variance] for variance in variances], [slope], [True], prescribed=-1.0),
        CheckRow(DISTANCE, [[distance] for distance in distances], [log_slope(widths[:-1], distances[:-1])], [False]),
    ]
    return Check(
        "convergence", "width", list(widths), [TRAINED], rows, VARIANCE_SLOPE_TOLERANCE, fails, expected_failure(run)
    )


def train_seeds(run: RunConfig, seeds: int, examples: Tensor | None = None) -> tuple[NDArray[np.float64], Tensor]:
    """Train a run's whole budget; return its losses and final outputs.

    Returns:
        Training losses (steps, seeds), and the outputs for `examples` after training, seeds first.
    """
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
