"""Builtin: the package's own trainer, several trials of one shape as a stack."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from hptransfer.core.errors import ConfigError, Interrupted
from hptransfer.core.io import append_jsonl, filter_jsonl
from hptransfer.core.records import DIVERGED, DONE, POINT, PRUNED, Outcome, Trial, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS, OnTrialEnd, Runner, Size, StackContext
from hptransfer.worker.stack_sizes import StackTimings, calibrate, recall, remember, steps_each

if TYPE_CHECKING:
    from hptransfer.training.config import RunConfig

# Trials that a job carries at most, by the FLOPs of one trial's step in one block. On a CPU core stacks of sixteen gain
# most below the first number, stacks of four below the second, and none above it (benchmarks/throughput.py). On a GPU
# 64 gain on 16 up to 5e9 and 16 on 4 at 2e10, as measured by benchmarks/gpu.py; what is beyond is a guess.
CPU_JOBS = {1.5e7: 16, 1e9: 4, math.inf: 1}
GPU_JOBS = {1e10: 64, 1e11: 16, math.inf: 4}
# Trials at most by which a plan measures how fast a GPU is: more take long to build.
RATED_STACK = 16
# What of a run leaves the time of a step as it is, beside all numbers with a point of its optimizer.
TIMELESS = (
    *("tokens", "schedule", "data_seed", "loss", "last", "points", "validation_windows", "diverged_above"),
    *("base", "branch", "budget", "constants", "unit", "alignment", "data", "runner"),
)
MEASURABLE_FLOPS = 5e10
# Settings of a run that ask for the same numbers in another way. Compilation rounds them otherwise, but so does the
# size of the stack that a trial trains in, which is no part of what it is either.
INDECISIVE = ("activation_checkpointing", "compile", "cuda_graph")


class BuiltinRunner(Runner):
    """PyTorch is imported only when a method is called."""

    def size(self, run: Mapping[str, Any]) -> Size:
        from hptransfer.training.config import run_from_json

        config = run_from_json(run)
        examples = config.steps * config.batch
        return Size(config.model.num_params(config.shape), examples * config.model.flops(config.shape))

    def decisive(self, run: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in run.items() if key not in INDECISIVE}

    def check_swept(self, run: Mapping[str, Any], names: Collection[str]) -> None:
        """Paths that there are not are refused by the plan, and what is set is used."""
        for name in INDECISIVE:
            if name in names:
                raise ConfigError(
                    f"run.{name} is swept, but changes no loss: a trial is the same at every value; set it once, in run"
                )

    def source(self, run: Mapping[str, Any]) -> str:
        return "the content of run.data"

    def fingerprint(self, run: Mapping[str, Any]) -> str:
        from hptransfer.training.config import run_from_json

        config = run_from_json(run)
        data = config.data.load()
        data.batch(seed=0, step=0, batch=1, sequence=config.sequence)
        data.validation(windows=config.validation_windows, sequence=config.sequence)
        return str(data.fingerprint)

    def check_there(self, run: Mapping[str, Any], folder: RunFolder) -> None:
        """The trainer comes with the package."""

    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        from hptransfer.training.config import run_from_json
        from hptransfer.training.groups import base_and_factors

        return base_and_factors(run_from_json(run))

    def gpus(self) -> int:
        import torch

        return torch.cuda.device_count()

    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        from hptransfer.training.config import run_from_json

        config = run_from_json(run)
        block = config.batch * config.model.flops(config.shape) / config.model.depth
        return next(trials for limit, trials in (GPU_JOBS if gpu else CPU_JOBS).items() if block < limit)

    def stack_size(self, trials: Sequence[Trial], stop: Callable[[], str | None]) -> int:
        """Measured on this device, in at most SHARE of the job's training (`steps_each`), unless it was before.

        A job too short for that takes the usual stack, or what a longer one has found.
        """
        from hptransfer.training.config import run_from_json

        config, count, about = run_from_json(trials[0].run), len(trials), self._about(trials[0].run)
        known = recall(about)
        if not known.answers(count) and (steps := steps_each(config.steps, count, gpu=bool(self.gpus()))):
            known = self._calibrate(config, count, known, steps, stop)
            remember(about, known)
        best = known.best() if known.seconds else self._usual_stack(trials[0].run)
        return min(best, count, known.most or count)

    def shared(self, run: Mapping[str, Any]) -> Any:
        from hptransfer.training.config import run_from_json

        return run_from_json(run).shared()

    def too_many(self, trials: Sequence[Trial]) -> None:
        about = self._about(trials[0].run)
        remember(about, recall(about).but_most(len(trials) - len(trials) // 2))

    def _usual_stack(self, run: Mapping[str, Any]) -> int:
        return self.job_size(run, gpu=bool(self.gpus()))

    def _about(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """All that the time of a training step hangs on."""
        import torch

        from hptransfer.training.config import run_from_json
        from hptransfer.training.device import device_name

        optimizer = {key: value for key, value in run["optimizer"].items() if not isinstance(value, float)}
        return {
            "device": device_name(self._device()),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "data": asdict(run_from_json(run).shape),
            **{key: value for key, value in run.items() if key not in TIMELESS},
            "optimizer": optimizer,
        }

    def _calibrate(
        self, config: RunConfig, trials: int, known: StackTimings, steps: int, stop: Callable[[], str | None]
    ) -> StackTimings:
        import torch
        import torch._dynamo  # torch's optimizers open it, in a second: no cost of this

        from hptransfer.training.device import Memory, out_of_memory
        from hptransfer.training.loop import measure_step

        config.data.load()  # as training will: no cost of this
        config = dataclasses.replace(config, compile=False)  # each size would be compiled
        device, started = self._device(), time.monotonic()
        memory = Memory(device)
        # Where one thread computes, its own time is the same whoever else has the core meanwhile.
        alone = device == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter

        def between() -> None:
            if cause := stop():
                raise Interrupted(cause)

        step_s = partial(measure_step, config, device=device, steps=steps, between=between, clock=clock)

        def measure(size: int) -> float:
            memory.expect(size)
            seconds: list[float] = []
            full = out_of_memory(lambda: seconds.append(step_s(trials=size)))
            memory.note(size)
            if full:
                raise MemoryError(full)
            return seconds[0]

        found = calibrate(trials, known, measure)
        shares = ", ".join(f"{size}: {1e3 * seconds / size:.2f}" for size, seconds in found.seconds.items())
        print(f"ms a step and trial by stack: {shares} (measured in {time.monotonic() - started:.2f} s)", flush=True)
        return found

    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        import torch

        from hptransfer.training.config import run_from_json
        from hptransfer.training.loop import measure_step

        config = dataclasses.replace(run_from_json(run), compile=False)  # a plan waits for no compiler
        stack = min(RATED_STACK, self._usual_stack(run))
        flops = self.size(run).flops / config.steps * stack
        if flops > MEASURABLE_FLOPS and not self.gpus():
            return None
        torch.set_num_threads(threads)
        return flops / measure_step(config, trials=stack, device=self._device())

    def _device(self) -> str:
        return "cuda" if self.gpus() else "cpu"

    def execute(self, trials: Sequence[Trial], folder: RunFolder, finish: OnTrialEnd, context: StackContext) -> None:
        from hptransfer.training.config import run_from_json
        from hptransfer.training.device import out_of_memory

        configs = [run_from_json(trial.run) for trial in trials]
        reason = out_of_memory(partial(self._train, configs, trials, folder, finish, context))
        # Nothing is left to halve.
        if reason and len(trials) == 1 and configs[0].model.residual and not configs[0].activation_checkpointing:
            print(f"trial {trials[0].id} is out of memory; again with run.activation_checkpointing=true", flush=True)
            frugal = [dataclasses.replace(configs[0], activation_checkpointing=True, compile=False)]
            reason = out_of_memory(partial(self._train, frugal, trials, folder, finish, context))
        if reason:
            raise MemoryError(reason)

    def _train(
        self,
        configs: Sequence[RunConfig],
        trials: Sequence[Trial],
        folder: RunFolder,
        finish: OnTrialEnd,
        context: StackContext,
    ) -> None:
        from hptransfer.training.checkpoint import Checkpoint
        from hptransfer.training.loop import Result, train

        device = self._device()
        curves = {t.id: folder.curve_path(t.id) for t in trials if not folder.outcome_path(t.id).exists()}
        checkpoint = Checkpoint(
            context.checkpoint,
            settings={"trials": [trial.id for trial in trials], "device": device},
            every_s=context.checkpoint_s,
            stop=context.stop,
            curves=list(curves.values()),
        )
        for trial in trials:
            if trial.id in curves:
                filter_jsonl(curves[trial.id], lambda point: point["step"] <= checkpoint.step)
            again = f" goes on after step {checkpoint.step}" if checkpoint.step else ""
            print(f"trial {trial.id} {trial.name}{again}", flush=True)

        def report(index: int, point: dict[str, Any]) -> None:
            trial = trials[index]
            if trial.id in curves:
                append_jsonl(curves[trial.id], [point])
            more = "".join(f" {key} {short(value)}" for key, value in point.items() if key not in POINT)
            print(f"trial {trial.id} step {point['step']} loss {point['loss']}{more}", flush=True)

        def end(index: int, result: Result, seconds: float) -> None:
            trial, config = trials[index], configs[index]
            state = PRUNED if result.pruned else DIVERGED if result.loss is None else DONE
            print(f"trial {trial.id} {state} loss {'-' if result.loss is None else short(result.loss)}", flush=True)
            outcome = Outcome(
                state=state,
                loss=result.loss,
                loss_se=result.loss_se,
                initial_loss=result.initial_loss,
                steps=result.steps,
                tokens=result.steps * config.tokens_a_step,
                seconds=seconds,
                stack=len(trials),
                groups=result.groups,
            )
            finish(trial, outcome)

        def is_pruned(index: int) -> bool:
            return folder.behind_path(trials[index].id).exists()

        seeds, data = [trial.seed for trial in trials], configs[0].data.load()
        train(configs, seeds, data, device=device, report=report, end=end, is_pruned=is_pruned, checkpoint=checkpoint)


RUNNERS.register("builtin")(BuiltinRunner())
