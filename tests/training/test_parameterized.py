"""muP keeps updates at their size as width grows; SP does not."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from hptransfer.core.errors import ConfigError
from hptransfer.training.config import Base
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers.adamw import AdamWConfig
from hptransfer.training.stack import Stack
from tests.support.settings import of_model, small

WIDTHS = (128, 256, 512)


def logit_change_slope(parameterization: str) -> float:
    """Return the slope of the logits' change against width, in logarithms.

    The change's RMS is over three steps (coordinate check).
    """
    data = small().data.load()
    inputs, targets = data.batch(seed=0, step=0, batch=4, sequence=32)
    changes = []
    for width in WIDTHS:
        run = small(parameterization=parameterization, lr=2.0**-6, base=Base(width=64))
        run.model = TransformerConfig(width=width, depth=2)
        stack = Stack([run] * 3, [0, 1, 2], device="cpu")
        with torch.no_grad():
            before = stack.model(inputs)
        for _ in range(3):
            stack.step(inputs, targets, 20)
        with torch.no_grad():
            changes.append((stack.model(inputs) - before).square().mean().sqrt().item())
    return float(np.polyfit(np.log2(WIDTHS), np.log2(changes), 1)[0])


def test_mup_logit_updates_keep_their_size_as_width_grows() -> None:
    assert abs(logit_change_slope("mup")) < 0.2


@pytest.mark.slow
def test_sp_logit_updates_grow_with_width() -> None:
    assert logit_change_slope("sp") > 0.3


def test_initial_weights_have_the_tables_spread() -> None:
    run = small(width=128)  # four times the base
    stack = Stack([run], [0], device="cpu")
    stds = {name: weight.std().item() for name, weight in stack.model.named_parameters()}
    assert stds["blocks.0.mlp.up.weight"] == pytest.approx(128**-0.5, rel=0.02)
    assert stds["tokens.weight"] == pytest.approx(1, rel=0.02)
    assert stds["readout.weight"] == pytest.approx(32**-0.5, rel=0.02)
    assert stack.model.readout.multiplier == 1 / 4


def test_optimizers_hold_the_settings_of_the_record() -> None:
    stack = Stack([small(width=128)], [0], device="cpu")
    torch_groups = stack.optimizers[0].param_groups
    assert [(g["peak"], g["eps"], g["weight_decay"]) for g in torch_groups] == [
        pytest.approx((g["lr"], g["eps"], g["weight_decay"])) for g in stack.groups(0)
    ]


@pytest.mark.parametrize("form", ["mup", "mup_table3", "mfp", "sp"])
def test_a_trials_record_holds_every_number_that_it_trains_with(form: str) -> None:
    """Compare each with the weights and modules themselves.

    In the second trial of a stack, off the base on all axes.
    """
    first, run = (
        dataclasses.replace(
            small(width=128, depth=8, parameterization=form, alignment="full", budget="complete"),
            base=Base(width=32, depth=2, batch=1, tokens=1024),
        )
        for _ in range(2)
    )
    run.branch = dataclasses.replace(run.branch, alpha=0.5, multiplier=3.0)
    first.branch = dataclasses.replace(run.branch, multiplier=1.0)
    run.constants.hidden.init, run.constants.output.multiplier, run.constants.input.lr = 0.5, 7.0, 2.0
    stack = Stack([first, run], [0, 1], device="cpu")
    trained = {id(group): group for one in stack.optimizers for group in one.param_groups if group["trial"] == 1}
    weights = dict(stack.model.named_parameters())
    recorded = stack.groups(1)
    assert json.loads(json.dumps(recorded)) == recorded
    assert sorted(name for group in recorded for name in group["parameters"]) == sorted(weights)
    for group, torch_group in zip(recorded, trained.values(), strict=True):
        found = {key: torch_group[key] for key in ("eps", "weight_decay")} | {"lr": torch_group["peak"]}
        assert {key: group[key] for key in found} == found
        assert (group["beta1"], group["beta2"]) == torch_group["betas"]
        for name, numbers in group["parameters"].items():
            assert numbers["init_std"] == pytest.approx(weights[name][1].std().item(), rel=0.05)
            assert numbers.get("branch_factor") == (3.0 * 0.5 if name.startswith("blocks") else None)
            layer = stack.model.get_submodule(name.removesuffix(".weight"))
            multiplier = layer.multiplier[1].item() if torch.is_tensor(layer.multiplier) else layer.multiplier
            assert numbers["output_multiplier"] == multiplier
    readout = next(group for group in recorded if group["role"] == "output")["parameters"]["readout.weight"]
    assert readout["output_multiplier"] == {"mup": 7 / 4, "mup_table3": 7.0, "mfp": 7 / 4, "sp": 7.0}[form]


def test_a_tied_embeddings_record_has_the_readouts_multiplier_too() -> None:
    run = dataclasses.replace(of_model("transformer", tied=True, width=128), base=Base(width=32))
    (embedding,) = (
        group["parameters"]["tokens.weight"]
        for group in Stack([run], [0], device="cpu").groups(0)
        if "tokens.weight" in group["parameters"]
    )
    assert embedding == {"init_std": 1.0, "output_multiplier": 1.0, "readout_multiplier": 32**-0.5 / 4}


def test_scaled_operations_are_in_the_record() -> None:
    """The squares of a residual sum's two weights add up to 1."""
    run = small(width=64, depth=3, parameterization="umup")
    for group in Stack([run], [0], device="cpu").groups(0):
        for name, numbers in group["parameters"].items():
            assert numbers["init_std"] == 1
            assert numbers["gradient_multiplier"] > 0
            if name.startswith("blocks"):
                assert numbers["branch_factor"] ** 2 + numbers["skip_factor"] ** 2 == pytest.approx(1)
                assert numbers["backward_multiplier"] > 0


def test_weights_that_start_alike_have_no_spread() -> None:
    run = of_model("transformer", zero_readout=True, norm_gains=True)
    spreads = {
        name: numbers["init_std"]
        for group in Stack([run], [0], device="cpu").groups(0)
        for name, numbers in group["parameters"].items()
    }
    assert spreads["readout.weight"] == spreads["norm.gain.weight"] == 0
    assert spreads["blocks.0.mlp.up.weight"] > 0


def test_a_constant_of_a_role_multiplies_its_rule() -> None:
    plain, own = small(width=64), small(width=64)
    own.constants.hidden.lr = 3.0
    rates = [{g["role"]: g["lr"] for g in Stack([run], [0], device="cpu").groups(0)} for run in (plain, own)]
    assert rates[1] == {**rates[0], "hidden": 3 * rates[0]["hidden"]}


@pytest.mark.parametrize(
    ("decay", "per_step"), [("coupled", 0.1 * 2**-6), ("independent", 0.1), ("timescale", 1 / 6.4)]
)
def test_weight_decay_in_three_meanings(decay: str, per_step: float) -> None:
    """Measure one step at the peak on a weight without a gradient.

    The result is equal at every width, except for the rule of coupled decay.
    """
    for width in (32, 128):
        run = small(width=width, optimizer=AdamWConfig(lr=2.0**-6, weight_decay=0.1, decay=decay))
        stack = Stack([run], [0], device="cpu")
        hidden = next(
            g
            for g in stack.optimizers[0].param_groups
            if g["lr"] == min(x["lr"] for x in stack.optimizers[0].param_groups)
        )
        assert hidden["peak"] * hidden["weight_decay"] == pytest.approx(per_step)


def test_tied_weights_need_equal_rules() -> None:
    with pytest.raises(
        ConfigError, match=r"run.model.tied: sp gives embedding and readout different values of init_std"
    ):
        Stack(
            [dataclasses.replace(of_model("transformer", tied=True, width=64), parameterization="sp")],
            [0],
            device="cpu",
        )
