"""The training loop, over a stack of trials that share shapes, batches and step count."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.parameterizations._unit import loss_gradient
from hptransfer.training.checkpoint import Checkpoint, State
from hptransfer.training.compiling import compiled
from hptransfer.training.config import RunConfig
from hptransfer.training.datasets._base import SQUARED, Dataset
from hptransfer.training.groups import groups_of, hand_out_gradients, kinds, parameterize, settings, tensors
from hptransfer.training.layers import Layer, Residual, keep, tilt, times, to_device
from hptransfer.training.models._base import BF16
from hptransfer.training.recording import Recorded
from hptransfer.training.unit import per_trial

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


Report = Callable[[int, dict[str, Any]], None]
"""Called with a trial's index in the stack and a point of its curve: step, tokens, loss, time, the model's report."""

End = Callable[[int, Result, float], None]
"""Called with a trial's index as it ends, its result, and its share of the stack's wall time in seconds."""

Behind = Callable[[int], bool]
"""Asked of a trial's index, at every point of its curve but the last, whether it is to stop here."""


class Stack:
    """A model of K trials with optimizers; trials can leave it while the rest go on.

    Args:
        runs, seeds: one a trial; the runs' shapes, batches and steps are equal.
    """

    def __init__(
        self, runs: Sequence[RunConfig], seeds: Sequence[int], *, device: str, dtype: torch.dtype = torch.float32
    ) -> None:
        if any(run.shared() != runs[0].shared() for run in runs[1:]):
            raise ValueError("the trials of a stack differ in what it has for all of them")
        self.alive = list(range(len(runs)))
        self.shape = runs[0].shape
        self.residual: bool = runs[0].model.residual
        self.model: nn.Module = runs[0].model.build(trials=len(runs), shape=self.shape)
        parameterize(self.model, runs, seeds)
        to_device(self.model, device, dtype)
        # Unlike torch's defaults: float32 is what run.precision says, and a trial that goes on is the one that it was.
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
        self._runs = list(runs)
        self._kinds = kinds(runs[0])
        for module in self.model.modules():
            if isinstance(module, Residual):
                module.recomputed = runs[0].activation_checkpointing
        self._bind()

    def _bind(self) -> None:
        """Optimizers over the trials that are there, and the forward pass that they train with."""
        self._training_losses = compiled(self.losses) if self._runs[0].compile else self.losses
        self._train = Recorded(self._update) if self._recordable() else self._update
        sharpness = per_trial([self._runs[index].unit.loss for index in self.alive])
        device = next(self.model.parameters()).device
        self._sharpness = sharpness.to(device) if isinstance(sharpness, Tensor) else sharpness
        groups = []
        self._views: list[list[Tensor]] = []
        self._views_by_layer: dict[Layer, list[list[Tensor]]] = {}
        for position, index in enumerate(self.alive):
            own = groups_of(self.model, self._kinds, position)
            self._views.append([view for group in own for view in group.params])
            for one in own:
                for view, layer in zip(one.params, one.layers, strict=True):
                    by_trial = self._views_by_layer.setdefault(layer, [[] for _ in self.alive])
                    by_trial[position].append(view)
                values = settings(self._runs[index], one.kind)
                places = {"params": one.params, "layers": one.layers, "role": one.kind.role, "trial": position}
                groups.append({**places, **values})
        self.optimizers: list[torch.optim.Optimizer] = self._runs[0].trainer.build(groups)
        trials = {id(view): position for position, views in enumerate(self._views) for view in views}
        for group in self._param_groups():
            group["peak"] = group["lr"]
            group["trial"] = trials[id(group["params"][0])]
        self._weights = list(self.model.parameters())
        # Rates that a recorded update finds where they were.
        on_gpu = [group for group in self._param_groups() if group.get("capturable")]
        self._rates = torch.empty(len(on_gpu), device=device)
        for group, rate in zip(on_gpu, self._rates, strict=True):
            group["lr"] = rate

    def _recordable(self) -> bool:
        run = self._runs[0]
        wanted = run.cuda_graph and next(self.model.parameters()).is_cuda
        return wanted and run.model.recordable and run.optimizer.recordable and not run.activation_checkpointing

    def _param_groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def step(self, inputs: Tensor, targets: Tensor, at: int) -> Tensor:
        """One update of every trial, the one at step `at` of the schedule; returns the losses before it, shape (K,)."""
        self._follow_schedules(at)
        return self._train(inputs, targets)

    def _follow_schedules(self, at: int) -> None:
        factors = [self._factor(self._runs[index], at) for index in self.alive]
        rates = []
        for group in self._param_groups():
            rate = group["peak"] * factors[group["trial"]]
            if isinstance(group["lr"], Tensor):
                rates.append(rate)
            else:
                group["lr"] = rate
        if rates:
            self._rates.copy_(torch.tensor(rates), non_blocking=True)

    def _update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        for tensor in itertools.chain(self._weights, *self._views):
            tensor.grad = None
        losses_KBS = self._training_losses(inputs, targets)
        losses_K = losses_KBS.mean(dim=(1, 2))
        losses_K.sum().backward()  # type: ignore[no-untyped-call]
        hand_out_gradients(self._views_by_layer)
        for group in self._param_groups():
            group["terms"] = losses_KBS[0].numel()  # that a trial's loss is the mean of
        for optimizer in self.optimizers:
            optimizer.step()
        return losses_K.detach()

    def _factor(self, run: RunConfig, at: int) -> float:
        warm = run.schedule.warmup_steps(run.steps, run.tokens_a_step)
        return run.schedule.factor(at, run.steps, warm=warm, peak=run.optimizer.lr)

    def outputs(self, inputs: Tensor) -> Tensor:
        """What the model answers, shape (K, B, S, outputs), as wide as its weights whatever it computes in."""
        weights = self._weights[0]
        with torch.autocast(weights.device.type, torch.bfloat16, enabled=self._runs[0].precision == BF16):
            found: Tensor = self.model(inputs.to(weights.dtype) if inputs.is_floating_point() else inputs)
        return found.to(weights.dtype)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of every prediction, shape (K, B, S): cross-entropy in nats, or half the squared error."""
        outputs_KBSO = self.outputs(inputs)
        trials, batch, sequence, outputs = outputs_KBSO.shape
        if self._runs[0].table.unit:
            unit = loss_gradient(batch * sequence, outputs, squared=self.shape.loss == SQUARED)
            outputs_KBSO = times(tilt(outputs_KBSO, unit / self._sharpness), self._sharpness)
        if self.shape.loss == SQUARED:
            error_KBSO = outputs_KBSO - targets.view(batch, sequence, outputs).to(outputs_KBSO.dtype)
            halved: Tensor = 0.5 * error_KBSO.square().sum(dim=3)
            return halved
        targets_KBS = targets.expand(trials, batch, sequence)
        flat = F.cross_entropy(outputs_KBSO.reshape(-1, outputs), targets_KBS.reshape(-1), reduction="none")
        return flat.view(trials, batch, sequence)

    def keep(self, positions: Sequence[int]) -> None:
        """Drops all trials of the stack but those at these positions; the others keep their state."""
        memory = self._memory(positions)
        keep(self.model, positions)
        self.alive = [self.alive[position] for position in positions]
        self._bind()
        self._remember(memory)

    def state(self) -> State:
        """What every further step depends on, between two steps."""
        return {"alive": self.alive, "model": self.model.state_dict(), "memory": self._memory(range(len(self.alive)))}

    def restore(self, state: State) -> None:
        """Puts a stack that was just made where another one of the same trials was."""
        if state["alive"] != self.alive:
            self.keep(state["alive"])
        self.model.load_state_dict(state["model"])
        self._remember(state["memory"])

    def _memory(self, positions: Iterable[int]) -> list[list[tuple[dict[str, Any], int | None]]]:
        """What optimizers know of every view of these trials; some count their steps by group, not by tensor."""
        owners = self._owners()
        found = []
        for position in positions:
            own = [(view, *owners[id(view)]) for view in self._views[position]]
            found.append([(dict(optimizer.state[view]), group.get("step")) for view, optimizer, group in own])
        return found

    def _remember(self, memory: Sequence[Sequence[tuple[dict[str, Any], int | None]]]) -> None:
        owners = self._owners()
        for views, remembered in zip(self._views, memory, strict=True):
            for view, (state, steps) in zip(views, remembered, strict=True):
                optimizer, group = owners[id(view)]
                optimizer.state[view] = state
                if steps is not None:
                    group["step"] = steps

    def _owners(self) -> dict[int, tuple[torch.optim.Optimizer, dict[str, Any]]]:
        """The optimizer and the group that train a view, by its id."""
        found: dict[int, tuple[torch.optim.Optimizer, dict[str, Any]]] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                found |= {id(view): (optimizer, group) for view in group["params"]}
        return found

    def report(self) -> list[dict[str, float]]:
        """What the model says of every trial beside its loss, since the last call."""
        found = {name: values.tolist() for name, values in self._runs[0].model.report(self.model).items()}
        return [{name: values[position] for name, values in found.items()} for position in range(len(self.alive))]

    def groups(self, position: int) -> list[dict[str, Any]]:
        """What the tensors of a trial train with, as plain numbers: their optimizer's by group, the others by name."""
        run = self._runs[self.alive[position]]
        numbers = tensors(self.model, run, self._kinds, position)
        found = []
        for group in groups_of(self.model, self._kinds, position):
            own = {name: numbers[name] for name in group.names}
            found.append({"role": group.kind.role.value, "parameters": own, **settings(run, group.kind)})
        return found


class Training:
    """A stack somewhere in its training: what changes from step to step, and with it the results so far.

    Attributes:
        steps: trained so far.
        results: of the trials that have ended, by index.
    """

    def __init__(
        self, runs: Sequence[RunConfig], seeds: Sequence[int], *, device: str, end: End | None, behind: Behind
    ) -> None:
        self.run = runs[0]
        self.stack = Stack(runs, seeds, device=device)
        self.groups = [self.stack.groups(position) for position in range(len(runs))]
        self.steps = 0
        self.results: dict[int, Result] = {}
        self._last_SK = torch.full((math.ceil(self.run.last * self.run.steps), len(runs)), math.nan, device=device)
        self._places_K = torch.tensor(self.stack.alive, device=device)
        self._first_losses: list[float] = []
        self._end, self._behind = end, behind
        self._share_s, self._since = 0.0, time.monotonic()

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update of every trial; returns the losses before it, shape (K,)."""
        losses_K = self.stack.step(inputs, targets, self.steps)
        self._last_SK[self.steps % len(self._last_SK)].index_copy_(0, self._places_K, losses_K.float())
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
            self._places_K = self._places_K[torch.tensor(rest, device=self._places_K.device)]
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
        self._places_K = torch.tensor(self.stack.alive, device=self._places_K.device)
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
    report: Report | None = None,
    end: End | None = None,
    behind: Behind = lambda index: False,
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
