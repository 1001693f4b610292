"""Stack: one model of several trials, with their optimizers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.parameterizations import unit_scaling
from hptransfer.training.checkpoint import State
from hptransfer.training.compiling import compile_losses
from hptransfer.training.config import RunConfig
from hptransfer.training.cuda_graph import RecordedUpdate
from hptransfer.training.datasets import SQUARED
from hptransfer.training.groups import (
    assign_gradients,
    group_keys,
    group_settings,
    groups_of,
    parameterize_stack,
    tensor_numbers,
)
from hptransfer.training.layers import Layer, Residual, keep, scale_bwd, scale_fwd, to_device
from hptransfer.training.models import BF16
from hptransfer.training.unit_scaling import per_trial


class Stack:
    """Model of K trials with optimizers; trials can leave while others continue.

    Args:
        runs, seeds: one per trial; the runs' shapes, batches and steps are equal.

    Attributes:
        alive: indices in `runs` of the trials that are still in the stack.
        alive_K: the same indices on the stack's device.
    """

    def __init__(
        self, runs: Sequence[RunConfig], seeds: Sequence[int], *, device: str, dtype: torch.dtype = torch.float32
    ) -> None:
        if any(run.shared() != runs[0].shared() for run in runs[1:]):
            raise ValueError("trials of one stack must be equal in all settings that the stack shares")
        self.alive = list(range(len(runs)))
        self.shape = runs[0].shape
        self.residual: bool = runs[0].model.residual
        self.model: nn.Module = runs[0].model.build(trials=len(runs), shape=self.shape)
        parameterize_stack(self.model, runs, seeds)
        to_device(self.model, device, dtype)
        # Unlike torch's defaults: run.precision=float32 means float32, and a resumed trial has the same numbers.
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
        self._runs = list(runs)
        self._group_keys = group_keys(runs[0])
        for module in self.model.modules():
            if isinstance(module, Residual):
                module.recomputed = runs[0].activation_checkpointing
        self._bind()

    def _bind(self) -> None:
        """Build optimizers and forward pass for the trials in the stack."""
        self._training_losses = compile_losses(self.losses) if self._runs[0].compile else self.losses
        self._train = RecordedUpdate(self._update) if self._recordable() else self._update
        sharpness = per_trial([self._runs[index].unit.loss for index in self.alive])
        device = next(self.model.parameters()).device
        self.alive_K = torch.tensor(self.alive, device=device)
        self._sharpness = sharpness.to(device) if isinstance(sharpness, Tensor) else sharpness
        groups = []
        self._views: list[list[Tensor]] = []
        self._views_by_layer: dict[Layer, list[list[Tensor]]] = {}
        for position, index in enumerate(self.alive):
            of_trial = groups_of(self.model, self._group_keys, position)
            self._views.append([view for group in of_trial for view in group.params])
            for group in of_trial:
                for view, layer in zip(group.params, group.layers, strict=True):
                    by_trial = self._views_by_layer.setdefault(layer, [[] for _ in self.alive])
                    by_trial[position].append(view)
                values = group_settings(self._runs[index], group.key)
                members = {"params": group.params, "layers": group.layers, "role": group.key.role, "trial": position}
                groups.append({**members, **values})
        self.optimizers: list[torch.optim.Optimizer] = self._runs[0].trainer.build(groups)
        trials = {id(view): position for position, views in enumerate(self._views) for view in views}
        for param_group in self._param_groups():
            param_group["peak"] = param_group["lr"]
            param_group["trial"] = trials[id(param_group["params"][0])]
        self._weights = list(self.model.parameters())
        # A recorded update reads rates from fixed addresses.
        on_gpu = [group for group in self._param_groups() if group.get("capturable")]
        self._rates = torch.empty(len(on_gpu), device=device)
        for param_group, rate in zip(on_gpu, self._rates, strict=True):
            param_group["lr"] = rate

    def _recordable(self) -> bool:
        run = self._runs[0]
        wanted = run.cuda_graph and next(self.model.parameters()).is_cuda
        return wanted and run.model.recordable and run.optimizer.recordable and not run.activation_checkpointing

    def _param_groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def step(self, inputs: Tensor, targets: Tensor, at: int) -> Tensor:
        """Update every trial once, at step `at` of the schedule.

        Returns:
            The losses before the update, shape (K,).
        """
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
        assign_gradients(self._views_by_layer)
        for group in self._param_groups():
            group["terms"] = losses_KBS[0].numel()  # terms of the mean that is a trial's loss
        for optimizer in self.optimizers:
            optimizer.step()
        return losses_K.detach()

    def _factor(self, run: RunConfig, at: int) -> float:
        warm = run.schedule.warmup_steps(run.steps, run.tokens_a_step)
        return run.schedule.factor(at, run.steps, warm=warm, peak=run.optimizer.lr)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs, shape (K, B, S, outputs).

        They have the type of its weights, whatever type it computes in.
        """
        weights = self._weights[0]
        with torch.autocast(weights.device.type, torch.bfloat16, enabled=self._runs[0].precision == BF16):
            outputs: Tensor = self.model(inputs.to(weights.dtype) if inputs.is_floating_point() else inputs)
        return outputs.to(weights.dtype)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every prediction, shape (K, B, S).

        It is cross-entropy in nats, or half the squared error.
        """
        outputs_KBSO = self.outputs(inputs)
        trials, batch, sequence, outputs = outputs_KBSO.shape
        if self._runs[0].table.unit:
            unit = unit_scaling.loss_gradient(batch * sequence, outputs, squared=self.shape.loss == SQUARED)
            outputs_KBSO = scale_fwd(scale_bwd(outputs_KBSO, unit / self._sharpness), self._sharpness)
        if self.shape.loss == SQUARED:
            error_KBSO = outputs_KBSO - targets.view(batch, sequence, outputs).to(outputs_KBSO.dtype)
            halved: Tensor = 0.5 * error_KBSO.square().sum(dim=3)
            return halved
        targets_KBS = targets.expand(trials, batch, sequence)
        flat = F.cross_entropy(outputs_KBSO.reshape(-1, outputs), targets_KBS.reshape(-1), reduction="none")
        return flat.view(trials, batch, sequence)

    def keep(self, positions: Sequence[int]) -> None:
        """Drop all trials except those at `positions`, which keep their state."""
        memory = self._memory(positions)
        keep(self.model, positions)
        self.alive = [self.alive[position] for position in positions]
        self._bind()
        self._remember(memory)

    def state(self) -> State:
        """Return the state between two steps, on which further steps depend."""
        return {"alive": self.alive, "model": self.model.state_dict(), "memory": self._memory(range(len(self.alive)))}

    def restore(self, state: State) -> None:
        """Restore the state of another stack of the same trials."""
        if state["alive"] != self.alive:
            self.keep(state["alive"])
        self.model.load_state_dict(state["model"])
        self._remember(state["memory"])

    def _memory(self, positions: Iterable[int]) -> list[list[tuple[dict[str, Any], int | None]]]:
        """Return the optimizers' state of every view of trials at `positions`.

        Some optimizers count their steps by group, not by tensor.
        """
        owners = self._owners()
        memory = []
        for position in positions:
            owned = [(view, *owners[id(view)]) for view in self._views[position]]
            memory.append([(dict(optimizer.state[view]), group.get("step")) for view, optimizer, group in owned])
        return memory

    def _remember(self, memory: Sequence[Sequence[tuple[dict[str, Any], int | None]]]) -> None:
        owners = self._owners()
        for views, remembered in zip(self._views, memory, strict=True):
            for view, (state, steps) in zip(views, remembered, strict=True):
                optimizer, group = owners[id(view)]
                optimizer.state[view] = state
                if steps is not None:
                    group["step"] = steps

    def _owners(self) -> dict[int, tuple[torch.optim.Optimizer, dict[str, Any]]]:
        """Return the optimizer and the group of every view, by its id."""
        owners: dict[int, tuple[torch.optim.Optimizer, dict[str, Any]]] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                owners |= {id(view): (optimizer, group) for view in group["params"]}
        return owners

    def report(self) -> list[dict[str, float]]:
        """Return the model's numbers of every trial since the last call.

        The loss is not among them.
        """
        numbers = {name: values.tolist() for name, values in self._runs[0].model.report(self.model).items()}
        return [{name: values[position] for name, values in numbers.items()} for position in range(len(self.alive))]

    def groups(self, position: int) -> list[dict[str, Any]]:
        """Return the numbers that a trial's tensors train with, by group.

        A group has its optimizer's settings and the other numbers of each parameter by name.
        """
        run = self._runs[self.alive[position]]
        numbers = tensor_numbers(self.model, run, self._group_keys, position)
        groups = []
        for group in groups_of(self.model, self._group_keys, position):
            of_group = {name: numbers[name] for name in group.names}
            groups.append({"role": group.key.role.value, "parameters": of_group, **group_settings(run, group.key)})
        return groups
