"""The training loop, over a stack of trials that share shapes, batches and step count."""

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
    """How one trial of a stack ended. Losses in nats a token; `loss`, what it is judged by, is None if it diverged.

    `groups` is what its parameters trained with. One that was stopped before its end is `pruned`, and has no loss.
    """

    loss: float | None
    loss_se: float | None
    initial_loss: float | None
    steps: int
    groups: list[dict[str, Any]]
    pruned: bool = False


OnPoint = Callable[[int, dict[str, Any]], None]
"""Called with a trial's index in the stack and a point of its curve: step, tokens, loss, time, the model's report."""

OnEnd = Callable[[int, Result, float], None]
"""Called with a trial's index as it ends, its result, and its share of the stack's wall time in seconds."""

IsPruned = Callable[[int], bool]
"""Asked of a trial's index, at every point of its curve but the last, whether it is to stop here."""


class Training:
    """A stack somewhere in its training: what changes from step to step, and with it the results so far.

    Attributes:
        steps: trained so far.
        results: of the trials that have ended, by index.
    """

    def __init__(
        self, runs: Sequence[RunConfig], seeds: Sequence[int], *, device: str, end: OnEnd | None, behind: IsPruned
    ) -> None:
        self.run = runs[0]
        self.stack = Stack(runs, seeds, device=device)
        self.groups = [self.stack.groups(position) for position in range(len(runs))]
        self.steps = 0
        self.results: dict[int, Result] = {}
        self._last_SK = torch.full((math.ceil(self.run.last * self.run.steps), len(runs)), math.nan, device=device)
        self._first_losses: list[float] = []
        self._end, self._behind = end, behind
        self._share_s, self._since = 0.0, time.monotonic()

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update of every trial; returns the losses before it, shape (K,)."""
        losses_K = self.stack.step(inputs, targets, self.steps)
        self._last_SK[self.steps % len(self._last_SK)].index_copy_(0, self.stack.alive_K, losses_K.float())
        self.steps += 1
        return losses_K

    def drop_diverged(self, losses: Sequence[float]) -> None:
        """Ends the trials whose losses are not finite, or far above their first ones."""
        self._first_losses = self._first_losses or list(losses)
        limits = [self.run.diverged_above * self._first_losses[index] for index in self.stack.alive]
        self._drop([place for place, loss in enumerate(losses) if not loss <= limits[place]])  # NaN is not

    def drop_broken(self, losses: Sequence[float]) -> None:
        """Ends the trials whose losses are not finite, and never will be again."""
        self._drop([place for place, loss in enumerate(losses) if not math.isfinite(loss)])

    def drop_behind(self) -> None:
        """Ends the trials that are to stop here."""
        self._drop([place for place, index in enumerate(self.stack.alive) if self._behind(index)], pruned=True)

    def _drop(self, places: Sequence[int], *, pruned: bool = False) -> None:
        if not places:
            return
        stack, share_s = self.stack, self._share()
        rest = sorted(set(range(len(stack.alive))).difference(places))
        for place in places:
            self._finish(stack.alive[place], None, None, self.steps, share_s, pruned=pruned)
        if rest:
            stack.keep(rest)
        else:
            stack.alive = []

    def finish(self, held_out: tuple[Tensor, Tensor]) -> None:
        """Ends the trials that have come to their last step."""
        stack = self.stack
        ends = validate(stack, *held_out) if self.run.loss == "held-out" else means(self._last_SK[:, stack.alive].T)
        share_s = self._share()
        for index, (loss, error) in zip(stack.alive, ends, strict=True):
            finite = math.isfinite(loss)
            known, spread = (value if math.isfinite(value) and finite else None for value in (loss, error))
            self._finish(index, known, spread, self.run.steps, share_s)

    def _finish(
        self, index: int, loss: float | None, error: float | None, steps: int, share_s: float, *, pruned: bool = False
    ) -> None:
        first = self._first_losses[index]
        result = Result(loss, error, first if math.isfinite(first) else None, steps, self.groups[index], pruned)
        self.results[index] = result
        if self._end:
            self._end(index, result, share_s)

    def _share(self) -> float:
        """Seconds of wall time for each of the trials that are there; one that has left costs nothing any more."""
        now = time.monotonic()
        self._share_s += (now - self._since) / len(self.stack.alive)
        self._since = now
        return self._share_s

    def state(self) -> State:
        """What a checkpoint holds. Batches go by the step alone; torch's random numbers are for models that draw."""
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
        """Goes on where another training of the same trials was, whose trials that had left end once more."""
        self.steps = state["step"]
        self._first_losses, self._last_SK = state["first_losses"], state["last_losses"]
        self.stack.restore(state["stack"])
        self._share_s, self._since = state["share_s"], time.monotonic()
        for index, steps in state["left"].items():
            self._finish(index, None, None, steps, self._share_s, pruned=self._behind(index))
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
    behind: IsPruned = lambda index: False,
    checkpoint: Checkpoint | None = None,
) -> list[Result]:
    """Trains trials that differ in hyperparameters and seeds only, all at once.

    A trial whose loss is above `diverged_above` times its first one has diverged: it leaves the stack at the next point
    of the curve and the others go on. One whose loss is not finite leaves at once; on a GPU too at the next point, as
    reading a loss would have every step wait for the one before it.

    Args:
        runs: settings of each trial; shapes, steps, batches and parameterization are equal.
        seeds: one a trial, for its initial weights.
        report: receives the points of the curves.
        end: receives the results as trials end.
        behind: which trials are to stop before their end, as others of their scale are better.
        checkpoint: what an earlier call left, from which this one goes on, and where this one leaves what it did.

    Returns:
        One result a trial, in the given order.

    Raises:
        Interrupted: the checkpoint was asked to stop.
    """
    run = runs[0]
    held_out = data.validation(windows=run.validation_windows, sequence=run.sequence)
    training = Training(runs, seeds, device=device, end=end, behind=behind)
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
                training.drop_behind()
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
    """A point of a curve; `time` is when it was written, in seconds since 1970."""
    tokens = (step + 1) * run.tokens_a_step
    return {"step": step + 1, "tokens": tokens, "loss": loss if math.isfinite(loss) else None, "time": time.time()}


@torch.no_grad()
def validate(stack: Stack, inputs: Tensor, targets: Tensor) -> list[tuple[float, float]]:
    """Mean loss over held-out windows and its standard error, for every trial of the stack."""
    device = next(stack.model.parameters()).device
    parts = [stack.losses(some.to(device), answers.to(device)).mean(dim=2) for some, answers in _pairs(inputs, targets)]
    return means(torch.cat(parts, dim=1))


def means(losses_KW: Tensor) -> list[tuple[float, float]]:
    """Mean over windows, or steps, and its standard error, for every trial."""
    losses_KW = losses_KW.double()
    means_K, number = losses_KW.mean(dim=1), losses_KW.shape[1]
    errors_K = losses_KW.std(dim=1) / number**0.5 if number > 1 else means_K * math.nan
    return list(zip(means_K.tolist(), errors_K.tolist(), strict=True))


def _pairs(inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
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
    """Seconds of one training step of a stack, the best of several after one to warm up.

    Args:
        steps: taken, with the one to warm up; a GPU's fourth is the first that is replayed.
        between: called before every step; what it raises ends the measurement.
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
