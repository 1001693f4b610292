"""Stacks, CUDA graphs, checkpoints and memory on a GPU.

Skipped without one.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError, Interrupted
from hptransfer.training.checkpoint import Checkpoint
from hptransfer.training.config import RunConfig
from hptransfer.training.device import MEMORY_SHARE, Memory, out_of_memory
from hptransfer.training.loop import train
from hptransfer.training.models import MODELS, PRECISIONS
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.model_cases import CALM_BF16, CASES, IDS, STACKED_BF16, trials
from tests.support.settings import of_model

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

STEPS = 20
BOUNDS = {"float32": 1e-5, "bf16": STACKED_BF16}
# cuDNN's kernels for a stack's convolutions, which are in groups, round otherwise than those for one trial's.
GROUPED_CONVOLUTIONS = 1e-3
SEEDS = (0, 1, 2)
every_model = pytest.mark.parametrize("name", MODELS.names())
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def with_all(runs: list[RunConfig], **changes: Any) -> list[RunConfig]:
    return [dataclasses.replace(run, **changes) for run in runs]


def losses(
    runs: list[RunConfig],
    seeds: tuple[int, ...] = SEEDS,
    *,
    device: str = "cuda",
    dtype: torch.dtype = torch.float32,
    left: int | None = None,
) -> Tensor:
    """Return losses of every step and trial.

    With `left`, of the first and last trial of three, as the second leaves at that step.
    """
    data, run = runs[0].data.load(), runs[0]
    stack = Stack(runs, seeds, device=device, dtype=dtype)
    found = []
    for step in range(STEPS):
        if step == left:
            stack.keep([0, 2])
        batch = data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)
        own = stack.step(*(part.to(device) for part in batch), step).cpu()
        found.append(own if left is None else own[[0, -1]])
    return torch.stack(found)


@every_precision
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_trial_has_its_own_numbers_in_a_stack(name: str, options: dict[str, Any], precision: str) -> None:
    runs = with_all(trials(name, options, "adamw"), precision=precision)
    for run in runs:
        run.optimizer.lr *= CALM_BF16 if precision == "bf16" else 1.0
    bound = GROUPED_CONVOLUTIONS if (name, precision) == ("resnet", "float32") else BOUNDS[precision]
    assert_own_numbers(runs, bound, torch.float32)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_trial_has_its_own_numbers_in_a_stack_in_float64(name: str, options: dict[str, Any]) -> None:
    assert_own_numbers(trials(name, options, "adamw"), 1e-10, torch.float64)


def assert_own_numbers(runs: list[RunConfig], bound: float, dtype: torch.dtype) -> None:
    alone = torch.cat([losses([run], (seed,), dtype=dtype) for run, seed in zip(runs, SEEDS, strict=True)], dim=1)
    torch.testing.assert_close(losses(runs, dtype=dtype), alone, rtol=bound, atol=0)
    assert ((alone[:, 0] / alone[:, 1] - 1).abs() > bound).any()  # the control: trials do differ


@every_precision
@every_model
def test_a_recorded_update_has_the_same_bits(name: str, precision: str) -> None:
    runs = with_all(trials(name, {}, "adamw"), precision=precision)
    recorded = losses(runs, left=10)
    assert torch.equal(recorded, losses(with_all(runs, cuda_graph=False), left=10))
    assert len(set(recorded[:, 0].tolist())) == STEPS  # the control: no update was replayed for nothing


def test_a_replayed_update_follows_the_schedule() -> None:
    """Rates are read at every replay, not at recording.

    A rate of 0 moves nothing.
    """
    run = dataclasses.replace(of_model("mlp"), tokens=32 * STEPS)
    run.schedule.end = 0.0
    stack = Stack([run], [0], device="cuda")
    inputs, targets = (part.cuda() for part in run.data.load().batch(seed=0, step=0, batch=32, sequence=1))
    falling = [stack.step(inputs, targets, 1).item() for _ in range(STEPS)]
    still = [stack.step(inputs, targets, STEPS).item() for _ in range(3)]
    assert falling == sorted(falling, reverse=True)
    assert still[0] == still[1] == still[2]


def test_a_recorded_update_never_waits_for_the_gpu() -> None:
    run = of_model("transformer")
    stack = Stack([run] * 2, [0, 1], device="cuda")
    batch = [part.cuda() for part in run.data.load().batch(seed=0, step=0, batch=2, sequence=32)]
    for step in range(4):
        stack.step(*batch, step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4, 8):
            stack.step(*batch, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_cannot_be_recorded_says_so() -> None:
    run = of_model("mlp")
    stack = Stack([run], [0], device="cuda")
    update = stack._train._update

    def asking(inputs: Tensor, targets: Tensor) -> Tensor:
        found = update(inputs, targets)
        found.tolist()
        return found

    stack._train._update = asking
    batch = [part.cuda() for part in run.data.load().batch(seed=0, step=0, batch=32, sequence=1)]
    for step in range(2):
        stack.step(*batch, step)
    with pytest.raises(ConfigError, match=r"^run.cuda_graph is true, but .* cannot be recorded .*cuda_graph=false$"):
        stack.step(*batch, 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer_trains_as_on_a_cpu(optimizer: str) -> None:
    runs = trials("mlp", {}, optimizer)
    bound = 1e-2 if optimizer in ("muon", "shampoo", "kfac") else 1e-3
    torch.testing.assert_close(losses(runs), losses(runs, device="cpu"), rtol=bound, atol=0)


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_compiled_and_recorded(name: str) -> None:
    runs = trials(name, {}, "adamw")
    bound = BOUNDS["float32"]
    torch.testing.assert_close(losses(with_all(runs, compile=True), left=10), losses(runs, left=10), rtol=bound, atol=0)


def test_activation_checkpointing_has_the_same_numbers() -> None:
    runs = trials("transformer", {}, "adamw")
    torch.testing.assert_close(losses(with_all(runs, activation_checkpointing=True)), losses(runs), rtol=1e-6, atol=0)


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    runs = trials("transformer", {}, "adamw")
    runs[1].optimizer.lr = 1e6  # diverges
    data = runs[0].data.load()
    whole = train(runs, SEEDS, data, device="cuda")
    asked = iter(range(10**6))

    def checkpoint(stop: int) -> Checkpoint:
        path = tmp_path / "stack.pt"
        return Checkpoint(path, settings={}, every_s=1e9, stop=lambda: "told" if next(asked) == stop else None)

    with pytest.raises(Interrupted):
        train(runs, SEEDS, data, device="cuda", checkpoint=checkpoint(11))
    assert train(runs, SEEDS, data, device="cuda", checkpoint=checkpoint(-1)) == whole
    assert whole[1].loss is None
    assert None not in (whole[0].loss, whole[2].loss)


def test_a_stack_beyond_memory_is_one_and_leaves_the_gpu_usable() -> None:
    run = of_model("transformer", width=256, depth=4)
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2e8) / total)
    try:
        assert "out of memory" in str(out_of_memory(lambda: losses([run] * 16, tuple(range(16)))))
        losses([run], (0,))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_what_a_larger_stack_takes_is_foreseen() -> None:
    run = of_model("transformer", width=128, depth=4)
    memory = Memory("cuda")
    peaks = []
    for size in (1, 2, 4, 8):
        memory.expect(size)
        losses([run] * size, tuple(range(size)))
        memory.note(size)
        peaks.append(memory._peaks[size])
    foreseen = peaks[2] + 2 * (peaks[2] - peaks[1])
    assert foreseen / 2 < peaks[3] < foreseen / MEMORY_SHARE
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(1.0)
    memory._peaks |= {8: total / 1.5, 4: total / 3}
    with pytest.raises(MemoryError, match="16"):
        memory.expect(16)
