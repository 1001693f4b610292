"""The training loop, over a stack of trials that share shapes, batches and step count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.training.config import RunConfig
from hptransfer.training.datasets._base import Dataset
from hptransfer.training.groups import attach_gradients, stacked_groups
from hptransfer.training.layers import Layer, parameterize

VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Result:
    """How one trial of a stack ended. Losses in nats a token; `loss` is None if it diverged."""

    loss: float | None
    loss_se: float | None
    initial_loss: float
    steps: int


Report = Callable[[int, dict[str, Any]], None]
"""Called with a trial's index in the stack and a point of its curve: step, tokens, loss, time."""


class Stack:
    """A model of K trials with an optimizer; trials can leave it while the rest go on."""

    def __init__(
        self,
        runs: Sequence[RunConfig],
        seeds: Sequence[int],
        *,
        vocabulary: int,
        device: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        first = runs[0]
        self.alive = list(range(len(runs)))
        model = first.model.build(trials=len(runs), vocabulary=vocabulary, sequence=first.sequence)
        ratio = first.model.width / first.base.width
        parameterize(model, first.rules(), ratio=ratio, seeds=seeds)
        self.model: nn.Module = model.to(device, dtype)
        self._runs = list(runs)
        self.optimizer = self._bind()

    def _bind(self) -> torch.optim.Optimizer:
        self._gradients = attach_gradients(self.model)
        self._groups = stacked_groups(self.model, [self._runs[index] for index in self.alive])
        flat = [group for groups in self._groups for group in groups]
        self._peaks = [group["lr"] for group in flat]
        optimizer: torch.optim.Optimizer = self._runs[0].optimizer.build(flat)
        return optimizer

    def step(self, inputs_BS: Tensor, targets_BS: Tensor, factor: float) -> Tensor:
        """One update of every trial; returns the losses before it, shape (K,)."""
        losses_K = self.losses(inputs_BS, targets_BS).mean(dim=(1, 2))
        torch._foreach_zero_(self._gradients)
        losses_K.sum().backward()  # type: ignore[no-untyped-call]
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.optimizer.step()
        return losses_K.detach()

    def losses(self, inputs_BS: Tensor, targets_BS: Tensor) -> Tensor:
        """Cross-entropy of every token, shape (K, B, S), in nats."""
        logits_KBSV = self.model(inputs_BS)
        trials, batch, sequence, vocabulary = logits_KBSV.shape
        targets_KBS = targets_BS.expand(trials, batch, sequence)
        flat = F.cross_entropy(logits_KBSV.view(-1, vocabulary), targets_KBS.reshape(-1), reduction="none")
        return flat.view(trials, batch, sequence)

    def keep(self, positions: Sequence[int]) -> None:
        """Drops all trials of the stack but those at these positions; the others keep their state."""
        state = [self.optimizer.state[view] for view in self._views(positions)]
        index = torch.tensor(list(positions))
        for layer in self.model.modules():
            if isinstance(layer, Layer):
                layer.weight = nn.Parameter(layer.weight.detach()[index.to(layer.weight.device)].clone())
        self.alive = [self.alive[position] for position in positions]
        self.optimizer = self._bind()
        for view, values in zip(self._views(range(len(positions))), state, strict=True):
            self.optimizer.state[view] = values

    def _views(self, positions: Sequence[int]) -> list[Tensor]:
        return [view for position in positions for group in self._groups[position] for view in group["params"]]


def train(
    runs: Sequence[RunConfig], seeds: Sequence[int], data: Dataset, *, device: str = "cpu", report: Report | None = None
) -> list[Result]:
    """Trains trials that differ in hyperparameters and seeds only, all at once.

    A trial whose loss is not finite, or is above `diverged_above` times its first one, has diverged:
    it leaves the stack at the next point of the curve and the others go on.

    Args:
        runs: settings of each trial; shapes, steps, batches and parameterization are equal.
        seeds: one a trial, for its initial weights.
        report: receives the points of the curves.

    Returns:
        One result a trial, in the given order.
    """
    run, steps = runs[0], runs[0].steps
    held_out = data.validation(windows=run.validation_windows, sequence=run.sequence)
    stack = Stack(runs, seeds, vocabulary=data.vocabulary, device=device)
    results: dict[int, Result] = {}
    first_losses: list[float] = []
    every = math.ceil(steps / run.points)
    for step in range(steps):
        inputs_BS, targets_BS = data.batch(seed=run.data_seed, step=step, batch=run.batch, sequence=run.sequence)
        losses_K = stack.step(inputs_BS.to(device), targets_BS.to(device), run.schedule.factor(step, steps))
        if step % every and step != steps - 1:
            continue
        losses = losses_K.tolist()
        first_losses = first_losses or losses
        if report:
            for index, loss in zip(stack.alive, losses, strict=True):
                report(index, _point(run, step, loss))
        limits = [run.diverged_above * first_losses[index] for index in stack.alive]
        sound = [place for place, loss in enumerate(losses) if loss <= limits[place]]  # NaN is not
        for place in set(range(len(losses))).difference(sound):
            results[stack.alive[place]] = Result(None, None, first_losses[stack.alive[place]], step + 1)
        if not sound:
            break
        if len(sound) < len(losses):
            stack.keep(sound)
    else:
        for index, (loss, error) in zip(stack.alive, validate(stack, *held_out), strict=True):
            finite = math.isfinite(loss)
            results[index] = Result(loss if finite else None, error if finite else None, first_losses[index], steps)
    return [results[index] for index in range(len(runs))]


def _point(run: RunConfig, step: int, loss: float) -> dict[str, Any]:
    """A point of a curve; `time` is when it was written, in seconds since 1970."""
    tokens = (step + 1) * run.batch * run.sequence
    return {"step": step + 1, "tokens": tokens, "loss": loss if math.isfinite(loss) else None, "time": time.time()}


@torch.no_grad()
def validate(stack: Stack, inputs_WS: Tensor, targets_WS: Tensor) -> list[tuple[float, float]]:
    """Mean loss over held-out windows and its standard error, for every trial of the stack."""
    device = next(stack.model.parameters()).device
    parts = [
        stack.losses(inputs.to(device), targets.to(device)).mean(dim=2)
        for inputs, targets in _pairs(inputs_WS, targets_WS)
    ]
    windows_KW = torch.cat(parts, dim=1).double()
    means_K = windows_KW.mean(dim=1)
    errors_K = windows_KW.std(dim=1) / windows_KW.shape[1] ** 0.5
    return list(zip(means_K.tolist(), errors_K.tolist(), strict=True))


def _pairs(inputs_WS: Tensor, targets_WS: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(inputs_WS), VALIDATION_BATCH):
        yield inputs_WS[start : start + VALIDATION_BATCH], targets_WS[start : start + VALIDATION_BATCH]


def measure_step(run: RunConfig, *, trials: int, device: str = "cpu") -> float:
    """Seconds of one training step of a stack, the better of two after one to warm up."""
    data = run.data.load()
    stack = Stack([run] * trials, [0] * trials, vocabulary=data.vocabulary, device=device)
    seconds = []
    for step in range(3):
        inputs_BS, targets_BS = data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)
        started = time.perf_counter()
        stack.step(inputs_BS.to(device), targets_BS.to(device), 1.0).tolist()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
