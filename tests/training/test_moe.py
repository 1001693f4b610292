"""Mixture of experts: dispatch, selection, balance, optimizers' views, rules of its axes."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import mixture_of_experts as bench
from hptransfer.coordcheck.activations import scale_check
from hptransfer.coordcheck.judgement import OUTPUTS, STREAM, Check
from hptransfer.coordcheck.layer_updates import one_layer_check
from hptransfer.core.errors import ConfigError
from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.training.config import Base, RunConfig
from hptransfer.training.groups import group_keys, group_rules, groups_of
from hptransfer.training.loop import train
from hptransfer.training.models import MODELS
from hptransfer.training.models.moe import MixtureOfExperts, MoeConfig, mixtures
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.helpers import ROOT
from tests.support.settings import DATA_SHAPES, of_model, small
from tests.support.slow import slow_except

OTHERS = [name for name in OPTIMIZERS.names() if name != "kfac"]


def run_of(optimizer: str = "adamw", *, parameterization: str = "mup", base: int = 32, **options: Any) -> RunConfig:
    run = dataclasses.replace(of_model("moe", **options), parameterization=parameterization, base=Base(width=base))
    return dataclasses.replace(run, optimizer=OPTIMIZERS.get(optimizer)(name=optimizer))


def batch_of(run: RunConfig, step: int = 0) -> tuple[Tensor, Tensor]:
    return run.data.load().batch(seed=0, step=step, batch=run.batch, sequence=run.sequence)


def stack_of(*runs: RunConfig, dtype: torch.dtype = torch.float64) -> Stack:
    return Stack(runs, list(range(len(runs))), device="cpu", dtype=dtype)


def outputs_and_gradients(stack: Stack, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    stack.model.zero_grad(set_to_none=True)
    outputs = stack.model(batch[0])
    outputs.square().sum().backward()
    return [outputs.detach(), *(weight.grad for weight in stack.model.parameters() if weight.grad is not None)]


# Dispatch and selection.


@pytest.mark.parametrize("favoured", [0.0, 9.0], ids=["spread", "all tokens on the same experts"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_active_experts_give_what_all_experts_would_and_no_token_is_dropped(
    dtype: torch.dtype, tolerance: float, favoured: float
) -> None:
    """Compare one grouped product with every expert on every token.

    Outputs and all gradients.
    """
    run = run_of(activation="swiglu", granularity=2)
    stack = stack_of(run, run, dtype=dtype)
    for mixture in mixtures(stack.model).values():
        mixture.bias[:, :4] += favoured
    sparse = outputs_and_gradients(stack, batch_of(run))
    for mixture in mixtures(stack.model).values():
        mixture.bias.zero_()
        mixture.bias[:, :4] += favoured
    run.model.probe(stack.model)
    for found, expected in zip(sparse, outputs_and_gradients(stack, batch_of(run)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def one_mixture(**options: Any) -> tuple[MixtureOfExperts, Tensor]:
    """Return one trial's first mixture, and tokens for it."""
    run = run_of(width=32, **options)
    (mixture, *_) = mixtures(stack_of(run).model).values()
    return mixture, torch.randn(1, 3, 40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_mixture_is_the_mean_over_the_experts_with_the_largest_biased_gates() -> None:
    """Compare with the definition, token by token.

    The bias affects the choice, not the weights.
    """
    mixture, x = one_mixture(activation="relu2")
    mixture.bias.copy_(torch.linspace(-0.3, 0.3, 8))
    found = mixture(x)[0].flatten(0, 1)
    chosen = set()
    for h, y in zip(mixture.norm(x)[0].flatten(0, 1), found, strict=True):
        gates = torch.sigmoid(mixture.router.weight[0] @ h)
        active = torch.argsort(gates + mixture.bias[0], descending=True)[:2]
        chosen.add(tuple(sorted(active.tolist())))
        outputs = [mixture.down.weight[0, e] @ torch.relu(mixture.up.weight[0, e] @ h).square() for e in active]
        expected = sum(gates[e] * output for e, output in zip(active, outputs, strict=True)) / 2
        torch.testing.assert_close(y, expected)
    assert len(chosen) > 3  # the control: tokens do differ


def test_the_bias_moves_against_the_load_in_the_backward_pass_alone() -> None:
    mixture, x = one_mixture(balance_rate=0.5)
    with torch.no_grad():
        mixture(x)
    assert not mixture.bias.any()
    gates = torch.sigmoid(mixture.router(mixture.norm(x)))
    active = gates.topk(2, dim=-1).indices
    load = torch.stack([(active == expert).any(dim=-1).double().mean() for expert in range(8)])
    mixture(x).sum().backward()
    torch.testing.assert_close(mixture.bias[0], -0.5 * (load - 1 / 4))
    assert float(mixture.take_load()) == pytest.approx(float(load.max()) * 4)


def curve(run: RunConfig) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    train([run], [0], run.data.load(), report=lambda _, point: points.append(point))
    return points


@pytest.mark.slow
def test_the_curve_says_the_load_and_the_bias_evens_it() -> None:
    loads = {}
    for rate in (0.0, MoeConfig().balance_rate):
        run = run_of(balance_rate=rate)
        loads[rate] = [point["expert_load"] for point in curve(dataclasses.replace(run, tokens=8192, points=8))]
        assert all(1 <= load <= run.model.sparsity for load in loads[rate])
    assert loads[MoeConfig().balance_rate][-1] < 1.5
    assert loads[MoeConfig().balance_rate][-1] < loads[0.0][-1] - 0.3
    assert "expert_load" not in curve(small(points=2))[0]


@pytest.mark.slow
def test_a_stack_in_single_precision_gives_each_trial_its_own_numbers() -> None:
    """Test the grouped kernel after 50 steps.

    The contract of all models tests double precision.
    """
    runs = [run_of(width=32) for _ in range(2)]
    runs[1].optimizer.lr /= 4
    stacks = [stack_of(*runs, dtype=torch.float32), *(Stack([run], [i], device="cpu") for i, run in enumerate(runs))]
    for step in range(50):
        together, *alone = (stack.step(*batch_of(runs[0], step), step) for stack in stacks)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=0)
    assert (together[0] - together[1]).abs() > 1e-2


# Optimizers.


def test_optimizers_see_every_expert_as_a_matrix_of_its_own() -> None:
    run = run_of(width=32)
    model = stack_of(run).model
    groups = groups_of(model, group_keys(run), 0)
    shapes = [tuple(view.shape) for group in groups for view in group.params]
    assert shapes.count((128, 32)) == shapes.count((32, 128)) == 2 * 8
    names = [name for group in groups for name in group.names]
    assert len(names) == len(set(names)) == len(list(model.parameters()))


def test_a_step_of_shampoo_has_spectral_norm_1_for_each_expert() -> None:
    """One flat matrix of all experts would have one norm for all."""
    run = run_of("shampoo", width=32)
    stack = stack_of(run)
    up = next(iter(mixtures(stack.model).values())).up.weight
    before = up.detach()[0].clone()
    stack.step(*batch_of(run), 20)
    (rate,) = {g["lr"] for one in stack.optimizers for g in one.param_groups if _holds(g, up)}
    norms = torch.linalg.matrix_norm((before - up.detach()[0]) / rate, 2)
    assert norms.tolist() == pytest.approx([1.0] * 8, abs=1e-3)


def _holds(group: dict[str, Any], weight: Tensor) -> bool:
    return any(view.data_ptr() == weight.data_ptr() for view in group["params"])


@pytest.mark.parametrize("name", slow_except(OTHERS, "adamw", "muon"))
def test_the_loss_falls_with_every_optimizer_but_kfac(name: str) -> None:
    run = dataclasses.replace(run_of(name, experts=4, sparsity=2), tokens=2048)
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None
    assert result.loss < result.initial_loss - 0.3


def test_kfac_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kfac has no factors for ExpertLinear.*role hidden; take another") as e:
        stack_of(run_of("kfac"))
    assert "matrices=hidden" not in str(e.value)  # experts are hidden


def test_umup_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"umup has no numbers for the operations of run/model=moe; take run.param"):
        run_of(parameterization="umup").check()


# Rules.


@pytest.mark.parametrize("parameterization", [name for name in PARAMETERIZATIONS.names() if name != "umup"])
@pytest.mark.parametrize("optimizer", OTHERS)
def test_at_the_base_every_factor_is_1(optimizer: str, parameterization: str) -> None:
    run = run_of(optimizer, parameterization=parameterization, width=32, granularity=2, base_granularity=2)
    for group in group_rules(run)["groups"].values():
        scalings = [scaling for scaling in group["settings"].values() if not isinstance(scaling, dict)]
        assert {*scalings, group["init_std"], group["output_multiplier"]} == {1.0}


def rules(optimizer: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Return rules of the run's expert and router tensors, by last name."""
    run = run_of(optimizer, **options)
    stack, found = stack_of(run), {}
    for group in stack.groups(0):
        for name in group["parameters"]:
            if name.startswith("blocks.0.mlp."):
                weight = stack.model.get_parameter(name).detach()
                layer = stack.model.get_submodule(name.removesuffix(".weight"))
                std = float(weight.std()) * float(layer.multiplier)
                found[name.split(".")[-2]] = {**group, "std": std, "rate": group["lr"] * float(layer.multiplier)}
    return found


def test_under_adam_experts_go_by_the_published_table() -> None:
    """The table is that of arXiv:2601.20205.

    Router d^-1; up d^-1/2, d^-1; down a^-1 d^-1/2, a^-1 d^-1, for std and rate, a = a_ffn.
    """
    base, grown = rules("adamw"), rules("adamw", width=64, granularity=4, experts=16)
    d, a = 2, 1 / 4
    published = {"router": (d**-1, d**-1), "up": (d**-0.5, d**-1), "down": (a**-1 * d**-0.5, a**-1 * d**-1)}
    for name, (std, rate) in published.items():
        assert grown[name]["std"] / base[name]["std"] == pytest.approx(std, rel=0.06)
        assert grown[name]["rate"] / base[name]["rate"] == pytest.approx(rate)


def test_what_knows_the_gradients_size_goes_by_the_number_of_active_experts() -> None:
    """An expert receives its share of the mean's gradient.

    SGD's rate is larger by that factor, Adam's epsilon smaller.
    """
    sgd, more = rules("sgd"), rules("sgd", experts=32)
    adam, eps = rules("adamw"), rules("adamw", experts=32)
    for name in ("router", "up", "down"):
        assert more[name]["lr"] / sgd[name]["lr"] == pytest.approx(4)
        assert eps[name]["eps"] / adam[name]["eps"] == pytest.approx(1 / 4)
        assert eps[name]["lr"] == pytest.approx(adam[name]["lr"])
    plain = rules("sgd", experts=32, parameterization="sp")
    assert plain["up"]["lr"] == sgd["up"]["lr"]  # one rate for all


def test_granularity_keeps_parameters_and_flops() -> None:
    shape = DATA_SHAPES["tokens"]
    whole, cut = (MODELS.get("moe")(width=64, granularity=granularity) for granularity in (1, 4))
    routers = 2 * 24 * 64  # what grows: 24 more rows in each of two layers
    assert cut.num_params(shape) - whole.num_params(shape) == routers
    assert cut.flops(shape) - whole.flops(shape) == 6 * routers * shape.sequence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": 7}, r"granularity must divide .* = 128, got 7; take 4 or 8"),
        ({"experts": 6}, r"experts must be a multiple of run.model.sparsity \(4\), got 6; take 4 or 8, or another"),
        ({"experts": 2}, r"got 2; take 4, or another sparsity"),
        ({"sparsity": 0}, "sparsity must be at least 1, got 0"),
        ({"balance_rate": -1.0}, "balance_rate must be at least 0 and finite, got -1.0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(width=32, **options).check()


# Coordinate checks. The readout starts at zero and routers near it: what random ones put out shrinks with width. What
# a router's logits change by is its own step only once that is larger.


def checked(
    optimizer: str, axis: str, sizes: tuple[int, ...], *, parameterization: str = "mup", **options: Any
) -> Check:
    options = {"width": 64, "zero_readout": True, **options}
    run = run_of(optimizer, parameterization=parameterization, base=64, **options)
    run.constants.output.init = 0.03
    return scale_check(run, axis=axis, sizes=sizes, steps=3, seeds=2 if axis != "width" else 1)


def slopes(check: Check, *ends: str) -> dict[str, float]:
    """Return slopes of the last change in rows with this name's ending."""
    return {row.name: row.slopes[-1] for row in check.rows if row.name.endswith(ends)}


WIDTHS = (128, 256, 512)
EXPERTS, MIXTURES = (".mlp.up", ".mlp.down"), (".mlp", STREAM, OUTPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_over_width_mup_is_flat_for_experts_and_their_sum(optimizer: str) -> None:
    found = slopes(checked(optimizer, "width", WIDTHS, experts=4, sparsity=2), *EXPERTS, *MIXTURES)
    assert len(found) == 2 * 3 + 2
    assert max(map(abs, found.values())) < 0.2


def own_changes(optimizer: str, parameterization: str) -> dict[str, float]:
    """Return slopes of a layer's own first change.

    On fewer tokens than the model is wide.
    """
    run = run_of(optimizer, parameterization=parameterization, base=64, experts=4, sparsity=2)
    run.batch, run.sequence = 1, 16
    return slopes(one_layer_check(run, widths=WIDTHS, seeds=4), ".router", *EXPERTS)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_step_changes_logits_and_experts_as_much_at_every_width(optimizer: str) -> None:
    assert max(map(abs, own_changes(optimizer, "mup").values())) < 0.15


@pytest.mark.slow
def test_sps_step_changes_them_more_the_wider_they_are() -> None:
    assert min(own_changes("adamw", "sp").values()) > 0.85


@pytest.mark.slow
def test_sgds_first_step_of_a_router_shrinks_with_width_as_experts_are_random() -> None:
    """Its gradient scales as n^-1/2 until experts have moved.

    It is the product of the experts' outputs and the loss's gradient there.
    """
    found = own_changes("sgd", "mup")
    routers = [found.pop(name) for name in list(found) if name.endswith("router")]
    assert sum(routers) / 2 == pytest.approx(-0.5, abs=0.2)
    assert max(map(abs, found.values())) < 0.15


def own_weights(optimizer: str, model: type[MoeConfig]) -> float:
    """Return the slope of the change by a router's own weights.

    After three steps on 16 tokens, with the readout at zero.
    """
    run = bench.run_of(optimizer, model, depth=1, experts=4, sparsity=2)
    run = dataclasses.replace(run, batch=1, sequence=16)
    (slope,) = bench.slopes(one_layer_check(run, widths=WIDTHS, steps=3, seeds=4), bench.LOGITS)
    return slope


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "lion"])
def test_a_routers_rule_holds_where_experts_do_not_start_at_random(optimizer: str) -> None:
    """The rule is that of an output matrix.

    Only the gradient that random experts give it shrinks.
    """
    random, zero = own_weights(optimizer, MoeConfig), own_weights(optimizer, bench.FromZero)
    assert abs(zero) < 0.15
    assert random < zero - (0.25 if optimizer == "sgd" else 0.03)


@pytest.mark.parametrize(("model", "own", "together"), [(MoeConfig, 0.5, 0.0), (bench.ByFanIn, 0.0, -0.5)])
def test_cut_experts_start_so_that_their_sum_keeps_its_size(
    model: type[MoeConfig], own: float, together: float
) -> None:
    check = bench.over(bench.run_of("adamw", model, width=64), "granularity", (1, 2, 4, 8), steps=1)
    assert bench.slopes(check, bench.OUTPUTS, 0) == pytest.approx([own] * 2, abs=0.05)
    assert bench.slopes(check, bench.SUM, 0) == pytest.approx([together] * 2, abs=0.1)


def test_the_pages_tables_are_the_benchmarks() -> None:
    """Heads and first cells, in order; the numbers take minutes: python benchmarks/mixture_of_experts.py."""
    page = (ROOT / "docs" / "mixture-of-experts.md").read_text().splitlines()
    for head, rows in bench.TABLES.values():
        start = page.index(bench.line(head))
        shown = [row.split(" | ") for row in page[start + 2 : start + 2 + len(rows)]]
        assert [row[0].removeprefix("| ") for row in shown] == list(rows)
        assert {len(row) for row in shown} == {len(head)}
        assert not page[start + 2 + len(rows)]


def test_over_the_number_of_experts_nothing_moves_under_adam() -> None:
    """The share of active experts is fixed."""
    check = checked("adamw", "experts", (4, 8, 16, 32))
    assert max(map(abs, slopes(check, *EXPERTS, *MIXTURES).values())) < 0.2
    assert max(map(abs, slopes(check, ".router").values())) < 0.35  # of two seeds


def first_steps(experts: int, parameterization: str) -> dict[str, float]:
    """Return sizes of SGD's first step by tensor of the first mixture."""
    run = run_of("sgd", experts=experts, parameterization=parameterization, width=32)
    stack = stack_of(dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, warmup=0)))
    mixture = next(iter(mixtures(stack.model).values()))
    before = {name: weight.detach().clone() for name, weight in mixture.named_parameters()}
    stack.step(*batch_of(run), 0)
    return {name: float((w.detach() - before[name]).square().mean().sqrt()) for name, w in mixture.named_parameters()}


@pytest.mark.parametrize(("parameterization", "slope"), [("mup", 0), ("sp", -1)])
def test_sgds_steps_keep_their_size_as_experts_are_added_but_for_sps(parameterization: str, slope: float) -> None:
    few, many = (first_steps(experts, parameterization) for experts in (8, 32))
    for name, step in few.items():
        assert many[name] / step == pytest.approx(4**slope, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_cutting_experts_leaves_their_sum_as_it_was(optimizer: str) -> None:
    """The control starts them by fan-in alone, as SP does.

    The sum of more of them is then smaller.
    """
    mup, sp = (checked(optimizer, "granularity", (1, 2, 4, 8), parameterization=name) for name in ("mup", "sp"))
    assert max(map(abs, slopes(mup, *MIXTURES).values())) < 0.2
    assert max(slopes(sp, ".mlp").values()) < -0.2
