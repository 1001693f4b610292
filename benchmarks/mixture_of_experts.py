"""Tables of docs/mixture-of-experts.md: slopes over width, experts and granularity.

    python benchmarks/mixture_of_experts.py [--table width axes routers]

They take minutes. A cell has the slopes of both layers. `tests/training/test_moe.py` has a short test for every claim.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hptransfer.coordcheck.activations import scale_check
from hptransfer.coordcheck.judgement import Check
from hptransfer.coordcheck.layer_updates import one_layer_check
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.layers import Residual
from hptransfer.training.models.moe import MixtureOfExperts, MoeConfig
from hptransfer.training.optimizers import OPTIMIZERS

WIDTHS = (128, 256, 512)
SIZES = {"experts": (4, 8, 16, 32), "granularity": (1, 2, 4, 8)}
STEPS, SEEDS, ROUTER_STEPS = 3, 2, 6
CHANGES = range(2, ROUTER_STEPS + 1)
OUTPUTS, SUM, LOGITS = ".mlp.down", ".mlp", ".mlp.router"
CONTROL = "sp, adamw: the control"
OPTIONS: dict[str, dict[str, Any]] = {"shampoo": {"largest_side": 64}}
OPTIMIZERS_SHOWN = ("adamw", "lion", "muon", "adafactor", "shampoo", "sgd")
ROUTERS = ("adamw", "lion", "muon", "sgd")


@dataclass(kw_only=True)
class ByFanIn(MoeConfig):
    """Experts whose last matrix starts by its fan-in alone.

    The source's factor a_ffn^-1/2 is left out.
    """

    def branch(self, trials: int) -> Residual:
        mixture = MixtureOfExperts(self, trials)
        mixture.down.spread = 1.0
        return mixture


@dataclass(kw_only=True)
class FromZero(MoeConfig):
    """Experts whose last matrix starts at zero.

    A router's gradient then has no part from random experts.
    """

    def branch(self, trials: int) -> Residual:
        mixture = MixtureOfExperts(self, trials)
        mixture.down.start = "zeros"
        return mixture


def run_of(
    optimizer: str, model: type[MoeConfig] = MoeConfig, *, parameterization: str = "mup", **options: Any
) -> RunConfig:
    """Return a run of two layers at width 128, plus options.

    The readout starts at zero and routers at 0.03 of their spread, except under sp.
    """
    run = RunConfig(
        parameterization=parameterization,
        base=Base(width=64),
        batch=2,
        sequence=32,
        model=model(**{"width": 128, "depth": 2, "zero_readout": True, **options}),
        optimizer=OPTIMIZERS.get(optimizer)(name=optimizer, **OPTIONS.get(optimizer, {})),
        data=StdlibConfig(),
    )
    if parameterization == "mup":
        run.constants.output.init = 0.03
    return run


def over(run: RunConfig, axis: str, sizes: Sequence[int], *, steps: int = STEPS, seeds: int = SEEDS) -> Check:
    """Measure changes over one axis, after every step."""
    return scale_check(run, axis=axis, sizes=sizes, steps=steps, seeds=seeds)


def own_step(optimizer: str, parameterization: str) -> Check:
    """Measure the change by a layer's own first step.

    It has 16 tokens, fewer than the model is wide. There are 4 experts, 2 of them active, and 4 seeds.
    """
    run = run_of(optimizer, parameterization=parameterization, experts=4, sparsity=2, zero_readout=False)
    run.constants.output.init = 1.0
    run = dataclasses.replace(run, batch=1, sequence=16)
    return one_layer_check(run, widths=WIDTHS, seeds=4)


def own_weights(run: RunConfig) -> list[float]:
    """Return the slopes of the change by a router's own weights.

    The effect of its changed input through its initial values is left out.
    """
    return slopes(one_layer_check(run, widths=WIDTHS, steps=ROUTER_STEPS, seeds=SEEDS), LOGITS)


def slopes(check: Check, end: str, column: int = -1) -> list[float]:
    """Return the slopes of a column, one for each layer.

    They are of the rows whose names end with the suffix.
    """
    return [row.slopes[column] for row in check.rows if row.name.endswith(end)]


def cell(found: list[float]) -> str:
    """Format the slopes of a cell, without -0.00."""
    return ", ".join(f"{round(slope, 2) + 0.0:.2f}" for slope in found)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def last_changes(check: Check) -> list[str]:
    return [cell(slopes(check, end)) for end in (OUTPUTS, SUM, LOGITS)]


Rows = Mapping[str, Callable[[], list[str]]]
"""Measurement of a row, by the text of its first cell."""


def width_rows() -> Rows:
    def row(optimizer: str, parameterization: str = "mup") -> list[str]:
        check = over(run_of(optimizer, parameterization=parameterization), "width", WIDTHS)
        return [*last_changes(check), cell(slopes(own_step(optimizer, parameterization), LOGITS))]

    names = {name: f"{name}, `largest_side=64`" if name == "shampoo" else name for name in OPTIMIZERS_SHOWN}
    return {shown: partial(row, name) for name, shown in names.items()} | {CONTROL: partial(row, "adamw", "sp")}


def axes_rows() -> Rows:
    def row(axis: str, optimizer: str, model: type[MoeConfig] = MoeConfig) -> list[str]:
        return last_changes(over(run_of(optimizer, model), axis, SIZES[axis]))

    def start(model: type[MoeConfig]) -> list[str]:
        check = over(run_of("adamw", model), "granularity", SIZES["granularity"], steps=1)
        return [cell(slopes(check, end, 0)) for end in (OUTPUTS, SUM, LOGITS)]

    return {
        **{f"experts 4 to 32, {name}": partial(row, "experts", name) for name in ("adamw", "sgd")},
        **{f"granularity 1 to 8, {name}": partial(row, "granularity", name) for name in OPTIMIZERS_SHOWN},
        **{
            f"granularity 1 to 8, last matrix by fan-in: {name}": partial(row, "granularity", name, ByFanIn)
            for name in ("adamw", "sgd")
        },
        "granularity 1 to 8, at the start": partial(start, MoeConfig),
        "granularity 1 to 8, at the start, last matrix by fan-in": partial(start, ByFanIn),
    }


def router_rows() -> Rows:
    def row(optimizer: str, model: type[MoeConfig]) -> list[str]:
        run = run_of(optimizer, model)
        check = over(run, "width", WIDTHS, steps=ROUTER_STEPS)
        return [*(cell(slopes(check, LOGITS, step)) for step in CHANGES), cell(own_weights(run))]

    models = {"": MoeConfig, ", experts from zero": FromZero}
    return {f"{name}{more}": partial(row, name, model) for more, model in models.items() for name in ROUTERS}


TABLES: dict[str, tuple[list[str], Rows]] = {
    "width": (
        ["width 128 to 512", "experts' outputs", "their sum", "router's logits", "by a router's own first step"],
        width_rows(),
    ),
    "axes": (["at width 128", "experts' outputs", "their sum", "router's logits"], axes_rows()),
    "routers": (
        ["router's logits, width 128 to 512", *(f"change {step}" for step in CHANGES), "own weights"],
        router_rows(),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=TABLES, default=list(TABLES))
    torch.set_num_threads(1)
    for table in parser.parse_args().table:
        head, rows = TABLES[table]
        print(line(head))
        print("|---" * len(head) + "|")
        for name, measure in rows.items():
            print(line([name, *measure()]), flush=True)
        print()


if __name__ == "__main__":
    main()
