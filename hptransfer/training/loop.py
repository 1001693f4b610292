"""Training loop over a stack of trials.

Trials of a stack share shapes, batches and the number of steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hptransfer.training.checkpoint import Checkpoint, State
from hptransfer.training.config import RunConfig
from hptransfer.training.datasets import Dataset
from hptransfer.training.stack import Stack

VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Result:
    """Result of one trial of a stack.

    Losses are in nats per token.

    Attributes:
        loss: loss that the trial is judged by; None if it diverged or was pruned.
        loss_se: standard error of the loss.
        groups: settings that its parameters trained with.
        pruned: True if the trial was stopped before its end.
    """

    loss: float | None
    loss_se: float | None
    initial_loss: float | None
    steps: int
    groups: list[dict[str, Any]]
    pruned: bool = False


OnPoint = Callable[[int, dict[str, Any]], None]
"""Callback with a trial's index in the stack and a point of its curve.

A point has `step`, `tokens`, `loss` and `time`, and the numbers of the model's report.
"""

OnEnd = Callable[[int, Result, float], None]
"""Callback with the index of a trial that ends, its result, and its share of the stack's wall time in seconds."""

IsPruned = Callable[[int], bool]
"""Test of a trial's index, at every point of its curve but the last: True if the trial is to stop here."""


class Training:
    """State of a stack during its training, with the results so far.

    Attributes:
        steps: number of steps trained so far.
        results: results of the trials that have ended, by index.
    """

    def __init__(
        self, runs: Sequence[RunConfig], seeds: Sequence[int], *, device: str, end: OnEnd | None, is_pruned: IsPruned
    ) -> None:
        self.run = runs[0]
        self.stack = Stack(runs, seeds, device=device)
        self.groups = [self.stack.groups(position) for position in range(len(runs))]
        self.steps = 0
        self.results: dict[int, Result] = {}
        self._last_SK = torch.full((math.ceil(self.run.last * self.run.steps), len(runs)), math.nan, device=device)
        self._first_losses: list[float] = []
        self._end, self._is_pruned = end, is_pruned
        self._share_s, self._since = 0.0, time.monotonic()

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Update every trial once; return the losses before the update, shape (K,)."""
        losses_K = self.stack.step(inputs, targets, self.steps)
        self._last_SK[self.steps % len(self._last_SK)].index_copy_(0, self.stack.alive_K, losses_K.float())
        self.steps += 1
        return losses_K

    def drop_diverged(self, losses: Sequence[float]) -> None:
        """End trials whose losses are not finite or far above their first."""
        self._first_losses = self._first_losses or list(losses)
        limits = [self.run.diverged_above * self._first_losses[index] for index in self.stack.alive]
        self._drop([position for position, loss in enumerate(losses) if not loss <= limits[position]])  # NaN is not

    def drop_broken(self, losses: Sequence[float]) -> None:
        """End trials whose losses are not finite."""
        self._drop([position for position, loss in enumerate(losses) if not math.isfinite(loss)])

    def drop_pruned(self) -> None:
        """End trials that are pruned at this point."""
        pruned = [position for position, index in enumerate(self.stack.alive) if self._is_pruned(index)]
        self._drop(pruned, pruned=True)

    def _drop(self, positions: Sequence[int], *, pruned: bool = False) -> None:
        if not positions:
            return
        stack, share_s = self.stack, self._share()
        remaining = sorted(set(range(len(stack.alive))).difference(positions))
        for position in positions:
            self._finish(stack.alive[position], None, None, self.steps, share_s, pruned=pruned)
        if remaining:
            stack.keep(remaining)
        else:
            stack.alive = []

    def finish(self, held_out: tuple[Tensor, Tensor]) -> None:
        """End the trials that have reached their last step."""
        stack = self.stack
        ends = validate(stack, *held_out) if self.run.loss == "held-out" else means(self._last_SK[:, stack.alive].T)
        share_s = self._share()
        for index, (loss, error) in zip(stack.alive, ends, strict=True):
            finite = math.isfinite(loss)
            loss_or_none, se = (value if math.isfinite(value) and finite else None for value in (loss, error))
            self._finish(index, loss_or_none, se, self.run.steps, share_s)

    def _finish(
        self, index: int, loss: float | None, error: float | None, steps: int, share_s: float, *, pruned: bool = False
    ) -> None:
        first = self._first_losses[index]
        result = Result(loss, error, first if math.isfinite(first) else None, steps, self.groups[index], pruned)
        self.results[index] = result
        if self._end:
            self._end(index, result, share_s)

    def _share(self) -> float:
        """Return the seconds of wall time per trial in the stack.

        A trial that has left it costs nothing from then on.
        """
        now = time.monotonic()
        self._share_s += (now - self._since) / len(self.stack.alive)
        self._since = now
        return self._share_s

    def state(self) -> State:
        """Return the state for a checkpoint.

        Batches depend only on the step. Torch's random state is kept for models that draw random numbers.
        """
        return {
            "step": self.steps,
            "stack": self.stack.state(),
            "left": {index: result.steps for index, result in self.results.items()},
            "first_losses": self._first_losses,
            "last_losses": self._last_SK,
            "share_s": self._share(),
            "random": _random_states(self._last_SK.device),
        }

    def restore(self, state: State) -> None:
        """Continue from the state of another training of the same trials.

        Trials that had left the stack end once more.
        """
        self.steps = state["step"]
        self._first_losses, self._last_SK = state["first_losses"], state["last_losses"]
        self.stack.restore(state["stack"])
        self._share_s, self._since = state["share_s"], time.monotonic()
        for index, steps in state["left"].items():
            self._finish(index, None, None, steps, self._share_s, pruned=self._is_pruned(index))
        torch.set_rng_state(state["random"][0])
        if self._last_SK.is_cuda:
            torch.cuda.set_rng_state(state["random"][1])


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state()] if device.type == "cuda" else states


def train(
    runs: Sequence[RunConfig],
    seeds: Sequence[int],
    data: Dataset,
    *,
    device: str = "cpu",
    report: OnPoint | None = None,
    end: OnEnd | None = None,
    is_pruned: IsPruned = lambda index: False,
    checkpoint: Checkpoint | None = None,
) -> list[Result]:
    """Train trials that differ only in hyperparameters and seeds, as one stack.

    A trial whose loss exceeds `diverged_above` times its first loss has diverged. It leaves the stack at the next point
    of the curve, and the others continue. A trial whose loss is not finite leaves at once. On a GPU it too leaves at
    the next point, because reading a loss would make every step wait for the previous one.

    Args:
        runs: settings of each trial; shapes, steps, batches and parameterization are equal.
        seeds: one per trial, for its initial weights.
        report: receives the points of the curves.
        end: receives the results as trials end.
        is_pruned: test for trials that stop before their end, as others of their scale are better.
        checkpoint: state of an earlier call, from which this one continues, and file of this call's state.

    Returns:
        One result per trial, in the given order.

    Raises:
        Interrupted: the checkpoint was asked to stop.
    """
    run = runs[0]
    held_out = data.validation(windows=run.validation_windows, sequence=run.sequence)
    training = Training(runs, seeds, device=device, end=end, is_pruned=is_pruned)
    if checkpoint and (state := checkpoint.take()):
        training.restore(state)
    every = math.ceil(run.steps / run.points)
    while training.steps < run.steps:
        step = training.steps
        inputs, targets = data.batch(seed=run.data_seed, step=step, batch=run.batch, sequence=run.sequence)
        losses_K = training.step(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
        if step % every == 0 or training.steps == run.steps:
            losses = losses_K.tolist()
            if report:
                for index, loss, more in zip(training.stack.alive, losses, training.stack.report(), strict=True):
                    report(index, {**_point(run, step, loss), **more})
            training.drop_diverged(losses)
            if training.steps < run.steps:
                training.drop_pruned()
        elif not losses_K.is_cuda and not losses_K.isfinite().all():
            losses = losses_K.tolist()
            for index, loss in zip(training.stack.alive, losses, strict=True):
                if report and not math.isfinite(loss):
                    report(index, _point(run, step, loss))
            training.drop_broken(losses)
        if not training.stack.alive:
            break
        if checkpoint:
            checkpoint.keep(training.state)
    else:
        training.finish(held_out)
    if checkpoint:
        checkpoint.remove()
    return [training.results[index] for index in range(len(runs))]


def _point(run: RunConfig, step: int, loss: float) -> dict[str, Any]:
    """Return a point of a curve; `time` is in seconds since 1970."""
    tokens = (step + 1) * run.tokens_a_step
    return {"step": step + 1, "tokens": tokens, "loss": loss if math.isfinite(loss) else None, "time": time.time()}


@torch.no_grad()
def validate(stack: Stack, inputs: Tensor, targets: Tensor) -> list[tuple[float, float]]:
    """Return every trial's mean held-out loss and its standard error."""
    device = next(stack.model.parameters()).device
    parts = [stack.losses(x.to(device), y.to(device)).mean(dim=2) for x, y in _batches(inputs, targets)]
    return means(torch.cat(parts, dim=1))


def means(losses_KW: Tensor) -> list[tuple[float, float]]:
    """Return every trial's mean over windows or steps, and its standard error."""
    losses_KW = losses_KW.double()
    means_K, number = losses_KW.mean(dim=1), losses_KW.shape[1]
    errors_K = losses_KW.std(dim=1) / number**0.5 if number > 1 else means_K * math.nan
    return list(zip(means_K.tolist(), errors_K.tolist(), strict=True))


def _batches(inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(inputs), VALIDATION_BATCH):
        yield inputs[start : start + VALIDATION_BATCH], targets[start : start + VALIDATION_BATCH]


def measure_step(
    run: RunConfig,
    *,
    trials: int,
    device: str = "cpu",
    steps: int = 4,
    between: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds of one training step of a stack.

    It is the shortest of several steps, after one to warm up.

    Args:
        steps: number of steps, with the one to warm up. On a GPU the fourth is the first that is replayed.
        between: called before every step; an exception that it raises ends the measurement.
        clock: clock that returns seconds.
    """
    data = run.data.load()
    stack = Stack([run] * trials, [0] * trials, device=device)
    seconds = []
    for step in range(steps):
        between()
        inputs, targets = data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)
        started = clock()
        stack.step(inputs.to(device), targets.to(device), 0).tolist()
        seconds.append(clock() - started)
    return min(seconds[1:])
