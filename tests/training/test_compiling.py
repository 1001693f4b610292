"""torch.compile: eager training's losses but for rounding, also when a trial leaves; one line without a compiler."""

import dataclasses

import torch
from torch import Tensor

from hptransfer.training.config import RunConfig
from hptransfer.training.loop import Stack
from tests.training.settings import of_model

BOUND = 1e-5


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
    """Of the first and last trial, in a stack that the second one leaves halfway."""
    data, run = runs[0].data.load(), runs[0]
    stack = Stack(runs, [0, 1, 2], device="cpu")
    found = []
    for step in range(20):
        if step == 10:
            stack.keep([0, 2])
        batch = data.batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)
        found.append(stack.step(*batch, step)[[0, -1]])
    return torch.stack(found)


@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_losses_are_those_of_eager_training_also_when_a_trial_leaves(model: str) -> None:
    runs = runs_of(model)
    expected = losses(runs)
    torch.testing.assert_close(losses(in_compiled(runs)), expected, rtol=BOUND, atol=0)
    assert (expected[-1, 0] - expected[-1, 1]).abs() > 100 * BOUND


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    (run, *_) = in_compiled(runs_of("mlp"))
    with pytest.raises(ConfigError, match=r"run\.compile is true, but nothing compiles here \(.*\); install a C\+\+"):
        train([run], [0], run.data.load())
