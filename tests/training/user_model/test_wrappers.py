"""Parameterized models train the same compiled, checkpointed, in parallel and sharded.

Tied weights are included.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.checkpoint import checkpoint

from tests.support.slow import slow_except
from tests.support.user_models import Block, Transformer, losses, mup, seeded, text

BATCHES = [text(seed) for seed in range(4)]
BASE = {"width": 16, "depth": 1}
# Multipliers on every matrix and on every branch, so that none may get lost.
EVERYWHERE: dict[str, Any] = {
    "parameterization": "mfp",
    "base": BASE,
    "depth": 2,
    "alpha": 1,
    "branches": ["blocks.*.attention", "blocks.*.mlp"],
}
RULES: dict[str, dict[str, Any]] = {"mfp": EVERYWHERE, "tied": {}}


def make_of(rule: str) -> Callable[[int], nn.Module]:
    return functools.partial(Transformer, tied=rule == "tied")


def reference(rule: str) -> list[float]:
    """Return losses of the unwrapped parameterized model."""
    model = seeded(make_of(rule), 64)
    return losses(model, [torch.optim.AdamW(mup(model, make_of(rule), **RULES[rule]))], BATCHES)


def wrapped(rule: str, wrap: Callable[[nn.Module], nn.Module], *, first: bool) -> list[float]:
    """Return losses of a model wrapped before or after parameterization."""
    model = seeded(make_of(rule), 64)
    if first:
        model = wrap(model)
        found = mup(model, make_of(rule), **RULES[rule])
    else:
        found = mup(model, make_of(rule), **RULES[rule])
        model = wrap(model)
    return losses(model, [torch.optim.AdamW(found)], BATCHES)


def compiled(model: nn.Module, backend: str = "eager") -> nn.Module:
    """Trace the model as one graph, with nothing left out.

    Torch itself runs it, as a compiler takes a minute.
    """
    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True)  # type: ignore[return-value]


def derived(model: nn.Module) -> nn.Module:
    """Trace the gradient's graph ahead of time too."""
    return compiled(model, "aot_eager")


class Recomputed(nn.Module):
    """Block whose forward pass is rerun in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> Any:
        return checkpoint(self.block, x, use_reentrant=False)


def recomputed(model: nn.Module) -> nn.Module:
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    return model


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", slow_except([True, False], True))
@pytest.mark.parametrize("wrap", slow_except([compiled, derived, recomputed], compiled, recomputed))
def test_compiled_and_checkpointed(wrap: Callable[[nn.Module], nn.Module], first: bool, rule: str) -> None:
    assert wrapped(rule, wrap, first=first) == pytest.approx(reference(rule), rel=1e-5)


# Torch's own, as it imports its compiler.
OWN_WARNING = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@OWN_WARNING
@pytest.mark.skipif(COMPILER is None, reason="inductor compiles C++, and there is no g++ or clang++")
@pytest.mark.parametrize("rule", RULES)
def test_compiled_to_machine_code(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    by_inductor = functools.partial(compiled, backend="inductor")
    assert wrapped(rule, by_inductor, first=False) == pytest.approx(reference(rule), rel=1e-4)


@pytest.mark.slow
@OWN_WARNING
def test_a_compiled_optimizer_takes_the_groups() -> None:
    model, plain = seeded(Transformer, 64), seeded(Transformer, 64)
    ours, theirs = torch.optim.AdamW(mup(model)), torch.optim.AdamW(mup(plain))
    torch._dynamo.reset()
    ours.step = torch.compile(ours.step, backend="eager")  # type: ignore[method-assign]
    assert losses(model, [ours], BATCHES) == pytest.approx(losses(plain, [theirs], BATCHES), rel=1e-5)


def test_checkpointing_by_call() -> None:
    def make(width: int) -> nn.Module:
        model = Transformer(width)
        model.blocks = nn.ModuleList(Recomputed(block) for block in model.blocks)
        return model

    options = {**EVERYWHERE, "branches": ["blocks.*.block.attention", "blocks.*.block.mlp"]}
    model = seeded(make, 64)
    assert losses(model, [torch.optim.AdamW(mup(model, make, **options))], BATCHES) == pytest.approx(
        reference("mfp"), rel=1e-6
    )


def parallel(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)  # type: ignore[return-value]


WRAPS = {"parallel": parallel, "sharded": sharded}


def worker(rank: int, folder: str, processes: int) -> None:
    """Run one of several processes, which see the same batches.

    Their mean gradient is therefore that of each.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    found = {
        f"{name} {rule} {first}": wrapped(rule, wrap, first=first)
        for name, wrap in WRAPS.items()
        for rule in RULES
        for first in (True, False)
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def in_parallel(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    """Return the losses of two processes."""
    folder = tmp_path_factory.mktemp("parallel")
    torch.multiprocessing.spawn(worker, args=(str(folder), 2), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("wrap", WRAPS)
def test_in_parallel_and_sharded(in_parallel: list[dict[str, list[float]]], wrap: str, first: bool, rule: str) -> None:
    expected = reference(rule)
    for found in in_parallel:
        assert found[f"{wrap} {rule} {first}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_reference_is_not_that_of_a_plain_model(rule: str) -> None:
    """Control: the reference depends on the parameterization."""
    model = seeded(make_of(rule), 64)
    plain = losses(model, [torch.optim.AdamW(model.parameters(), lr=2.0**-6, betas=(0.9, 0.95))], BATCHES)
    assert plain != pytest.approx(reference(rule), rel=1e-2)
