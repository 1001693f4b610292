"""torch.compile: eager losses except for rounding; one-line error without a compiler.

Also when a trial leaves the stack.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hptransfer.core.errors import ConfigError
from hptransfer.training.config import RunConfig
from hptransfer.training.loop import train
from hptransfer.training.models import MODELS
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.settings import of_model

# PyTorch's own, as it imports its compiler, traces an autograd.Function, and goes on behind what it does not compile.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

BOUNDS = {"float32": 1e-5, "bf16": 4e-3}


def runs_of(model: str, **options: object) -> list[RunConfig]:
    run = of_model(model, width=32, depth=1, **options)
    rates = (1.0, 0.5, 0.25)
    return [
        dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, lr=run.optimizer.lr * rate))
        for rate in rates
    ]


def in_compiled(runs: list[RunConfig]) -> list[RunConfig]:
    return [dataclasses.replace(run, compile=True) for run in runs]


def losses(runs: list[RunConfig]) -> Tensor:
    """Return losses of two trials in a stack that a third leaves.

    They are the first and the last trial; the second leaves halfway.
    """
    data, run = runs[0].data.load(), runs[0]
    stack = Stack(runs, [0, 1, 2], device="cpu")
    found = []
    for step in range(20):
        if step == 10:
            stack.keep([0, 2])
        batch = data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)
        found.append(stack.step(*batch, step)[[0, -1]])
    return torch.stack(found)


def assert_same_losses(runs: list[RunConfig]) -> None:
    expected, bound = losses(runs), BOUNDS[runs[0].precision]
    torch.testing.assert_close(losses(in_compiled(runs)), expected, rtol=bound, atol=0)
    assert (expected[-1, 0] - expected[-1, 1]).abs() > 10 * bound


@pytest.mark.slow
def test_losses_are_those_of_eager_training_also_when_a_trial_leaves() -> None:
    assert_same_losses(runs_of("mlp"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("model", MODELS.names())
def test_losses_of_every_model(model: str, precision: str) -> None:
    runs = [dataclasses.replace(run, precision=precision) for run in runs_of(model)]
    if precision in runs[0].model.compiles:
        assert_same_losses(runs)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_losses_of_every_optimizer(optimizer: str) -> None:
    one = OPTIMIZERS.get(optimizer)(name=optimizer)
    runs = [dataclasses.replace(run, optimizer=dataclasses.replace(one, lr=one.lr / 4)) for run in runs_of("mlp")]
    runs[2].optimizer.lr /= 4
    assert_same_losses(runs)


def test_a_precision_that_torch_does_not_compile_a_model_in_is_refused() -> None:
    (run, *_) = in_compiled(runs_of("moe"))
    with pytest.raises(
        ConfigError, match=r"torch cannot compile run/model=moe in float32; set run\.precision=bf16, or"
    ):
        run.check()
    dataclasses.replace(run, precision="bf16").check()


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled before would do
    (run, *_) = in_compiled(runs_of("mlp"))
    with pytest.raises(ConfigError, match=r"run\.compile is true, but torch\.compile failed \(.*\); it needs a C\+\+"):
        train([run], [0], run.data.load())
