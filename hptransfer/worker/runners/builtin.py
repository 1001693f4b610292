"""Builtin: train trials of one shape as a stack, with this package."""

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
from hptransfer.core.records import CURVE_KEYS, DIVERGED, DONE, NATS, PRUNED, Objective, Outcome, Trial, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.worker.runners import RUNNERS, OnTrialEnd, Runner, RunSchema, Size, StackContext
from hptransfer.worker.stack_sizes import StackTimings, calibrate, calibration_steps, read_timings, write_timings

if TYPE_CHECKING:
    from hptransfer.training.config import RunConfig

# Largest number of trials in a job, by the FLOPs of one trial's step in one block. On a CPU core, stacks of 16 are
# fastest below the first number and stacks of four below the second. Above it no stack is faster than single trials
# (benchmarks/throughput.py). On a GPU, stacks of 64 are faster than those of 16 up to 5e9, and stacks of 16 faster than
# those of 4 at 2e10 (benchmarks/gpu.py). The larger bounds are guesses.
CPU_JOBS = {1.5e7: 16, 1e9: 4, math.inf: 1}
GPU_JOBS = {1e10: 64, 1e11: 16, math.inf: 4}
# Largest stack with which a plan measures the rate of a device: building a larger one takes long.
RATED_STACK = 16
# Run settings that do not change the time of a step, besides all floating-point settings of the optimizer.
TIME_INDEPENDENT = (
    *("tokens", "schedule", "data_seed", "loss", "last", "points", "validation_windows", "diverged_above"),
    *("base", "branch", "budget", "constants", "unit", "alignment", "data", "runner"),
)
MEASURABLE_FLOPS = 5e10
# Run settings that are not part of a trial's identity, because they compute the same numbers in another way.
# Compilation changes rounding, but so does the size of a trial's stack, which is not part of its identity either.
EXECUTION_SETTINGS = ("activation_checkpointing", "compile", "cuda_graph")


class BuiltinRunner(Runner):
    """Runner of the package's own models; methods import PyTorch when called."""

    def schema(self) -> RunSchema:
        from hptransfer.training.config import RUN_FAMILIES, RunConfig

        return RunSchema(RunConfig, RUN_FAMILIES)

    def size(self, run: Mapping[str, Any]) -> Size:
        from hptransfer.training.config import run_from_json

        config = run_from_json(run)
        examples = config.steps * config.batch
        return Size(config.model.num_params(config.shape), examples * config.model.flops(config.shape))

    def identity_settings(self, run: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in run.items() if key not in EXECUTION_SETTINGS}

    def objective(self, run: Mapping[str, Any]) -> Objective:
        """Return the loss, in nats unless it is a squared error."""
        from hptransfer.training.config import run_from_json
        from hptransfer.training.datasets import SQUARED

        return Objective(unit="" if run_from_json(run).shape.loss == SQUARED else NATS)

    def check_swept(self, run: Mapping[str, Any], names: Collection[str]) -> None:
        """Check that no swept setting is useless or changes the rules.

        The plan refuses unknown paths, and the trainer uses all settings.
        """
        for name in EXECUTION_SETTINGS:
            if name in names:
                raise ConfigError(
                    f"run.{name} is swept, but changes no loss: a trial is the same at every value; set it once, in run"
                )
        if "alignment" in names:
            raise ConfigError(
                "run.alignment is swept, but each value is another rule for all groups; `hptransfer coord-check "
                "check=alignment` measures it; set it once, in run"
            )

    def fingerprint_source(self, run: Mapping[str, Any]) -> str:
        return "the content of run.data"

    def fingerprint(self, run: Mapping[str, Any]) -> str:
        from hptransfer.training.config import run_from_json

        config = run_from_json(run)
        data = config.data.load()
        data.batch(seed=0, step=0, batch=1, sequence=config.sequence)
        data.validation(windows=config.validation_windows, sequence=config.sequence)
        return str(data.fingerprint)

    def check_files(self, run: Mapping[str, Any], folder: RunFolder) -> None:
        """Accept: the trainer is part of this package."""

    def groups(self, run: Mapping[str, Any]) -> dict[str, Any]:
        from hptransfer.training.config import run_from_json
        from hptransfer.training.groups import group_rules

        return group_rules(run_from_json(run))

    def gpus(self) -> int:
        import torch

        return torch.cuda.device_count()

    def job_size(self, run: Mapping[str, Any], *, gpu: bool) -> int:
        from hptransfer.training.config import run_from_json

        config = run_from_json(run)
        block = config.batch * config.model.flops(config.shape) / config.model.depth
        return next(trials for limit, trials in (GPU_JOBS if gpu else CPU_JOBS).items() if block < limit)

    def stack_size(self, trials: Sequence[Trial], stop: Callable[[], str | None]) -> int:
        """Return the stack size with the highest measured throughput on this device.

        A measurement costs at most CALIBRATION_SHARE of the job's training (`calibration_steps`), and is reused. A job
        that is too short for it uses the default size, or the result of a longer job.
        """
        from hptransfer.training.config import run_from_json

        config, count, conditions = run_from_json(trials[0].run), len(trials), self._timing_conditions(trials[0].run)
        known = read_timings(conditions)
        if not known.is_sufficient(count) and (steps := calibration_steps(config.steps, count, gpu=bool(self.gpus()))):
            known = self._calibrate(config, count, known, steps, stop)
            write_timings(conditions, known)
        best = known.best_size() if known.seconds else self._default_stack_size(trials[0].run)
        return min(best, count, known.most or count)

    def stack_key(self, run: Mapping[str, Any]) -> Any:
        from hptransfer.training.config import run_from_json

        return run_from_json(run).shared()

    def note_out_of_memory(self, trials: Sequence[Trial]) -> None:
        conditions = self._timing_conditions(trials[0].run)
        write_timings(conditions, read_timings(conditions).limited_to(len(trials) - len(trials) // 2))

    def _default_stack_size(self, run: Mapping[str, Any]) -> int:
        return self.job_size(run, gpu=bool(self.gpus()))

    def _timing_conditions(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return all conditions on which the time of a training step depends."""
        import torch

        from hptransfer.training.config import run_from_json
        from hptransfer.training.device import device_name

        optimizer = {key: value for key, value in run["optimizer"].items() if not isinstance(value, float)}
        return {
            "device": device_name(self._device()),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "data": asdict(run_from_json(run).shape),
            **{key: value for key, value in run.items() if key not in TIME_INDEPENDENT},
            "optimizer": optimizer,
        }

    def _calibrate(
        self, config: RunConfig, trials: int, known: StackTimings, steps: int, stop: Callable[[], str | None]
    ) -> StackTimings:
        import torch
        import torch._dynamo  # torch's optimizers import it, in a second: not to be measured

        from hptransfer.training.device import Memory, out_of_memory
        from hptransfer.training.loop import measure_step

        config.data.load()  # as training will: not to be measured
        config = dataclasses.replace(config, compile=False)  # otherwise each size would be compiled
        device, started = self._device(), time.monotonic()
        memory = Memory(device)
        # The CPU time of a single computing thread does not depend on other processes on its core.
        single_thread = device == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if single_thread else time.perf_counter

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

        timings = calibrate(trials, known, measure)
        shares = ", ".join(f"{size}: {1e3 * seconds / size:.2f}" for size, seconds in timings.seconds.items())
        print(
            f"ms per step and trial by stack size: {shares} (measured in {time.monotonic() - started:.2f} s)",
            flush=True,
        )
        return timings

    def flops_rate(self, run: Mapping[str, Any], threads: int) -> float | None:
        import torch

        from hptransfer.training.config import run_from_json
        from hptransfer.training.loop import measure_step

        config = dataclasses.replace(run_from_json(run), compile=False)  # a plan must not wait for the compiler
        stack = min(RATED_STACK, self._default_stack_size(run))
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
        # A single trial cannot be halved.
        if reason and len(trials) == 1 and configs[0].model.residual and not configs[0].activation_checkpointing:
            print(
                f"trial {trials[0].id} is out of memory; restarted with run.activation_checkpointing=true", flush=True
            )
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
            resumed = f" resumes after step {checkpoint.step}" if checkpoint.step else ""
            print(f"trial {trial.id} {trial.name}{resumed}", flush=True)

        def report(index: int, point: dict[str, Any]) -> None:
            trial = trials[index]
            if trial.id in curves:
                append_jsonl(curves[trial.id], [point])
            metrics = "".join(f" {key} {short(value)}" for key, value in point.items() if key not in CURVE_KEYS)
            print(f"trial {trial.id} step {point['step']} loss {point['loss']}{metrics}", flush=True)

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
            return folder.pruned_path(trials[index].id).exists()

        seeds, data = [trial.seed for trial in trials], configs[0].data.load()
        train(configs, seeds, data, device=device, report=report, end=end, is_pruned=is_pruned, checkpoint=checkpoint)


RUNNERS.register("builtin")(BuiltinRunner())
