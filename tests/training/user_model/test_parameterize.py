"""A user's model trains as the same builtin one.

At its base it trains as if unchanged.
"""

import copy
import functools
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hptransfer
from hptransfer.core.errors import ConfigError
from hptransfer.training import datasets
from hptransfer.training.config import Base, BranchConfig, RunConfig
from hptransfer.training.datasets import DataShape
from hptransfer.training.layers import Layer
from hptransfer.training.models.mlp import MlpConfig
from hptransfer.training.models.transformer import TransformerConfig
from hptransfer.training.optimizers import OPTIMIZERS
from hptransfer.training.stack import Stack
from tests.support.settings import small
from tests.support.slow import slow_except
from tests.support.user_models import (
    POSITIONS,
    TOKENS,
    Perceptron,
    Transformer,
    examples,
    losses,
    mup,
    seeded,
    text,
)

BRANCHES = ("blocks.*.attention", "blocks.*.mlp")
PARAMETERIZATIONS = ("sp", "ntk", "mfp", "mup", "mup_table3", "mup_sqrt")
TEXT = DataShape(kind=datasets.TOKENS, inputs=(POSITIONS,), vocabulary=TOKENS, outputs=TOKENS)
FEATURES = DataShape(kind=datasets.FEATURES, inputs=(20,), outputs=7)


@dataclass
class Data:
    """Data configuration of a given shape for builtin models."""

    of: DataShape

    def shape(self, sequence: int) -> DataShape:
        return self.of


def builtin(*, depth: int = 2, optimizer: str = "adamw", lr: float = 2.0**-6, **changes: Any) -> Stack:
    """Return the builtin transformer of width 64 at base width 16."""
    model = TransformerConfig(width=64, depth=depth, head_dim=8, tied=changes.pop("tied", False))
    settings = changes.pop("settings", {})
    run = small(
        model=model,
        base=Base(width=16, depth=2),
        optimizer=OPTIMIZERS.get(optimizer)(lr=lr, **settings),
        sequence=POSITIONS,
        batch=4,
        data=Data(TEXT),
        **changes,
    )
    return alone(run)


def alone(run: RunConfig) -> Stack:
    """One trial in float64, at a constant rate."""
    run.schedule.shape, run.schedule.warmup = "constant", 0.0
    return Stack([run], [0], device="cpu", dtype=torch.float64)


def with_weights(stack: Stack, model: nn.Module) -> nn.Module:
    """Return the plain model with the builtin one's weights."""
    weights = {name: value[0] for name, value in stack.model.state_dict().items()}
    missing = model.double().load_state_dict(weights, strict=False).missing_keys
    assert missing in ([], ["readout.weight"])
    return model


def same_losses(stack: Stack, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    batches = [text(seed) for seed in range(20)]
    theirs = [stack.step(*batch, step).item() for step, batch in enumerate(batches)]
    ours = losses(model, optimizers, batches)
    assert theirs == pytest.approx(ours, rel=1e-8)
    assert abs(ours[-1] - ours[0]) > 1e-3, "it must have trained"


@pytest.mark.parametrize(
    "optimizer",
    slow_except(
        ["adamw", "sgd", "adam_atan2", "lion", "adafactor", "muon", "shampoo"], "adamw", "sgd", "lion", "adafactor"
    ),
)
def test_as_the_builtin_transformer_under_every_optimizer(optimizer: str) -> None:
    settings = {"weight_decay": 0.1}
    stack = builtin(optimizer=optimizer, lr=2.0**-8, settings=settings)
    model = with_weights(stack, Transformer(64))
    found = mup(model, optimizer=optimizer, lr=2.0**-8, settings=settings, rescale=False)
    theirs = {name: group for group in stack.groups(0) for name in group["parameters"]}
    for name, one in found.tuned.items():
        assert {**one.settings, "role": one.item.role.value}.items() <= theirs[name].items()
    same_losses(stack, model, found.optimizers())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_as_the_builtin_perceptron_with_biases(optimizer: str) -> None:
    run = small(
        model=MlpConfig(width=64, depth=2, biases=True),
        base=Base(width=16),
        optimizer=OPTIMIZERS.get(optimizer)(lr=2.0**-5),
        data=Data(FEATURES),
    )
    stack = alone(run)
    model = Perceptron(64).double()
    with torch.no_grad():
        for index, layer in enumerate((model.first, model.middle, model.last)):
            layer.weight.copy_(stack.model.layers[index].weight[0])
            layer.bias.copy_(stack.model.biases[index].weight[0])
    found = mup(model, Perceptron, optimizer=optimizer, lr=2.0**-5, rescale=False)
    x, y = examples()
    theirs = [stack.step(x, y[:, None], step).item() for step in range(20)]
    assert theirs == pytest.approx(losses(model, found.optimizers(), [(x.double(), y)] * 20), rel=1e-8)
    assert theirs[-1] < theirs[0] - 0.1


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_as_the_builtin_transformer_under_every_parameterization(parameterization: str) -> None:
    stack = builtin(parameterization=parameterization)
    model = with_weights(stack, Transformer(64))
    found = mup(model, parameterization=parameterization, rescale=False)
    for name, layer in stack.model.named_modules():
        if isinstance(layer, Layer):
            assert found.tuned[f"{name}.weight"].multipliers[name] == layer.multiplier
    same_losses(stack, model, [torch.optim.AdamW(found)])


def test_the_multiplier_is_what_makes_it_equal() -> None:
    """Control: without its hooks the model trains differently."""
    stack = builtin()
    model = with_weights(stack, Transformer(64))
    groups = list(mup(copy.deepcopy(model), rescale=False))
    names = [group["names"] for group in groups]
    own = dict(model.named_parameters())
    plain = [{**group, "params": [own[name] for name in some]} for group, some in zip(groups, names, strict=True)]
    with pytest.raises(AssertionError):
        same_losses(stack, model, [torch.optim.AdamW(plain)])


@pytest.mark.parametrize("alignment", ["none", 0.75])
def test_alignment_is_taken(alignment: Any) -> None:
    stack = builtin(parameterization="sp", alignment=alignment)
    model = with_weights(stack, Transformer(64))
    same_losses(
        stack, model, [torch.optim.AdamW(mup(model, parameterization="sp", alignment=alignment, rescale=False))]
    )


@pytest.mark.parametrize("alpha", [0.5, 1])
def test_as_the_builtin_transformer_under_a_depth_rule(alpha: float) -> None:
    stack = builtin(depth=4, branch=BranchConfig(alpha=alpha))
    make = functools.partial(Transformer, depth=4)
    model = with_weights(stack, make(64))
    base = {"width": 16, "depth": 2}
    found = mup(model, make, base=base, depth=4, alpha=alpha, branches=BRANCHES, rescale=False)
    assert found.branches == dict.fromkeys(
        [f"blocks.{i}.{part}" for i in range(4) for part in ("attention", "mlp")], 2.0**-alpha
    )
    same_losses(stack, model, [torch.optim.AdamW(found)])


def test_tied_weights_have_a_multiplier_where_they_are_the_readout() -> None:
    make = functools.partial(Transformer, tied=True)
    found = mup(make(64), make)
    (tied,) = (one for name, one in found.tuned.items() if name == "tokens.weight")
    assert tied.multipliers == {"tokens": 1.0, "readout": 0.25}
    assert tied.item.role.value == "input"
    assert "readout.weight" not in found.tuned


def test_tied_weights_train_as_the_builtin_ones() -> None:
    """Equal up to the constant of the builtin readout at its base.

    It has unit weights over the root of the base width.
    """
    stack = builtin(tied=True)
    make = functools.partial(Transformer, tied=True)
    model = with_weights(stack, make(64))
    model.readout.weight = model.tokens.weight
    found = mup(model, make, rescale=False)
    model.readout.register_forward_hook(lambda module, args, y: y * 16**-0.5)
    same_losses(stack, model, [torch.optim.AdamW(found)])


def test_tied_weights_are_refused_where_their_rules_differ() -> None:
    make = functools.partial(Transformer, tied=True)
    with pytest.raises(
        ConfigError, match=r"tokens\.weight is tied.*different values of init_std.*parameterization=mup"
    ):
        mup(make(64), make, parameterization="mup_table3")


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_nothing_happens_at_the_base(parameterization: str) -> None:
    batches = [text(seed) for seed in range(5)]
    plain = seeded(Transformer, 16)
    state = torch.get_rng_state()
    model = seeded(Transformer, 16)
    found = mup(model, parameterization=parameterization, settings={"weight_decay": 0.1})
    assert torch.equal(torch.get_rng_state(), state), "random numbers go on as if nothing had been drawn"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    theirs = torch.optim.AdamW(plain.parameters(), lr=2.0**-6, betas=(0.9, 0.95), weight_decay=0.1)
    assert losses(plain, [theirs], batches) == losses(model, [torch.optim.AdamW(found)], batches)
    for ours, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, other)


def test_forms_of_mup_compute_the_same() -> None:
    def trained(parameterization: str) -> list[float]:
        model = seeded(Transformer, 64).double()
        found = mup(model, parameterization=parameterization)
        return losses(model, [torch.optim.AdamW(found)], [text(seed) for seed in range(5)])

    assert trained("mup") == pytest.approx(trained("mup_sqrt"), rel=1e-9)
    assert trained("mup") == pytest.approx(trained("mup_table3"), rel=1e-9)
    assert trained("mup") != pytest.approx(trained("sp"), rel=1e-3)


def test_names_class_and_state_stay() -> None:
    model = Transformer(64)
    names = list(model.state_dict())
    mup(model, parameterization="mfp")
    assert list(model.state_dict()) == names
    assert type(model) is Transformer
    assert type(model.readout) is nn.Linear


def test_a_copied_and_a_pickled_model_keep_their_multipliers() -> None:
    model = Transformer(64)
    before = model(text()[0])
    mup(model, parameterization="mfp", rescale=False)
    after = model(text()[0])
    assert not torch.allclose(before, after)
    assert torch.equal(copy.deepcopy(model)(text()[0]), after)
    assert torch.equal(pickle.loads(pickle.dumps(model))(text()[0]), after)


def test_a_bias_is_not_multiplied() -> None:
    model = Perceptron(64)
    nn.init.zeros_(model.last.weight)
    nn.init.ones_(model.last.bias)
    mup(model, Perceptron)
    assert torch.equal(model(examples()[0]), torch.ones(16, 7))


def test_layers_may_be_called_by_keyword() -> None:
    model = Perceptron(64)
    mup(model, Perceptron, rescale=False)
    x = torch.randn(3, 64)
    assert torch.equal(model.last(input=x), model.last(x))
    assert not torch.equal(model.last(x), nn.functional.linear(x, model.last.weight, model.last.bias))


def test_a_second_time_is_refused() -> None:
    model = Transformer(64)
    mup(model)
    with pytest.raises(ConfigError, match=r"parameterized already \(readout has a multiplier\)"):
        mup(model)


def test_a_schedule_keeps_the_ratios_of_groups() -> None:
    model = Transformer(64)
    optimizer = torch.optim.AdamW(mup(model))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len(set(rates)) > 1
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(1, 4):
        losses(model, [optimizer], [text()])
        schedule.step()
        now = [group["lr"] for group in optimizer.param_groups]
        assert now == pytest.approx([rate / (1 + step) for rate in rates])


def test_groups_fit_torchs_optimizers() -> None:
    muon = mup(Transformer(64), optimizer="muon", settings={"weight_decay": 0.1})
    hidden = [group for group in muon if group["role"] == "hidden"]
    rest = [group for group in muon if group["role"] != "hidden"]
    own = [group for optimizer in muon.optimizers() for group in optimizer.param_groups]
    theirs = [*torch.optim.Muon(hidden).param_groups, *torch.optim.AdamW(rest).param_groups]
    for key in ("lr", "weight_decay", "momentum", "betas", "eps", "adjust_lr_fn"):
        assert [group.get(key) for group in theirs] == [group.get(key) for group in own]
    for group in torch.optim.SGD(mup(Transformer(64), optimizer="sgd", settings={"nesterov": True})).param_groups:
        assert group["nesterov"]
        assert group["momentum"] == 0.9
    assert sum(len(g["params"]) for g in mup(Transformer(64))) == len(list(Transformer(64).parameters()))


def test_batch_and_token_rules() -> None:
    base = {"width": 16, "batch_size": 4, "tokens": 1000}
    one = mup(Transformer(16), base=base, budget="complete", batch_size=16, tokens=1000).tuned["tokens.weight"]
    assert one.settings["lr"] == 2.0**-5
    assert one.settings["beta2"] == pytest.approx(0.8)
    sqrt = mup(Transformer(16), base={"width": 16, "batch_size": 4}, budget="sqrt", batch_size=16).tuned[
        "tokens.weight"
    ]
    assert sqrt.settings["lr"] == 2.0**-5


def test_the_record_holds_every_number(tmp_path: Path) -> None:
    make = functools.partial(Transformer, depth=4)
    base = {"width": 16, "depth": 2}
    found = mup(make(64), make, base=base, depth=4, alpha=0.5, branches=BRANCHES, settings={"weight_decay": 0.1})
    found.write(tmp_path / "multipliers.json")
    record = json.loads((tmp_path / "multipliers.json").read_text())
    assert record == json.loads(json.dumps(found.to_json()))
    assert record["schema"] == 1
    assert record["base"] == base
    assert record["optimizer"]["lr"] == 2.0**-6
    assert record["branches"]["blocks.3.mlp"] == 2**-0.5
    by_name = {one["name"]: one for one in record["parameters"]}
    up, readout = by_name["blocks.0.mlp.up.weight"], by_name["readout.weight"]
    assert up["role"] == "hidden"
    assert up["factors"]["init_std"] == 0.5
    assert up["factors"]["learning_rate"] == 0.25 * 2**-0.5
    assert up["factors"]["epsilon"] == 0.25 * 2**-0.5
    assert up["factors"]["weight_decay"] == 4
    assert up["settings"]["lr"] == 2.0**-6 * 0.25 * 2**-0.5
    assert readout["uses"] == [{"module": "readout", "role": "output", "multiplier": 0.25}]
    assert set(by_name) == {name for name, _ in make(16).named_parameters()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parameterization": "umup"}, "scales every operation"),
        ({"parameterization": "mupp"}, "Did you mean 'mup'"),
        ({"optimizer": "muonn"}, "Did you mean 'muon'"),
        ({"optimizer": "adam", "settings": {"weight_decay": 0.1}}, "adds decay to a gradient that shrinks.*adamw"),
        ({"optimizer": "kfac"}, "kfac needs layers"),
        ({"lr": 0.0}, "optimizer.lr must be above 0"),
        ({"settings": {"beta3": 0.9}}, "unknown setting of adamw 'beta3'"),
        ({"settings": {"decay": "timescale", "weight_decay": 0.1}}, "decay=timescale depends on the run's steps"),
        ({"alignment": "half"}, "alignment must be"),
        ({"base": 0}, "base must be a whole number of at least 1, got 0"),
        ({"base": True}, "base must be a whole number of at least 1, got True"),
        ({"base": "a"}, "base must be a whole number of at least 1, got 'a'; give a size"),
        ({"base": {}}, "base needs the width at which every factor is 1, got nothing"),
        ({"base": {"width": 16.0}}, r"base\['width'\] must be a whole number of at least 1, got 16.0"),
        ({"make": 3}, "make must build the model at a width, got int 3; give one such as lambda"),
        ({"make": lambda width: None}, r"make\(16\) must return the model, an nn.Module, and returns NoneType"),
        ({"make": lambda: Transformer(16)}, r"make\(16\) fails on the meta device.*takes 0 positional arguments"),
        ({"lr": "a"}, "lr must be a number, got 'a'; its default is"),
        ({"lr": True}, "lr must be a number, got True"),
        ({"lr": float("nan")}, "optimizer.lr must be above 0 and finite, got nan; typical"),
        ({"lr": -1}, "optimizer.lr must be above 0 and finite, got -1; typical"),
        ({"settings": [0.1]}, r"settings must be a dictionary, got \[0.1\]; write it as {'weight_decay': 0.1}"),
        ({"settings": {"eps": "a"}}, r"settings\['eps'\] must be a number, got 'a'; its default is 1e-08"),
        ({"optimizer": "sgd", "settings": {"nesterov": 1}}, r"settings\['nesterov'\] must be True or False, got 1"),
        ({"settings": {"decay": 1}}, r"settings\['decay'\] must be a name, got 1"),
        ({"settings": {3: 1}}, "unknown setting of adamw '3'"),
        ({"optimizer": None}, "optimizer must be a name, got None; `hptransfer list`"),
        ({"parameterization": 3}, "parameterization must be a name, got 3"),
        ({"roles": ["output"]}, r"roles must be a dictionary of roles by glob, got \['output'\]; write it as"),
        ({"roles": {"readout.weight": 3}}, r"roles\['readout.weight'\]: unknown role '3'"),
        ({"alpha": True}, "alpha must be 0, 0.5 or 1, got True"),
        (
            {"branches": "blocks.*"},
            r"branches must be a list of globs, got 'blocks.\*'; write branches=\['blocks.\*'\]",
        ),
        ({"branches": 3}, "branches must be a list of globs, got 3; write it as"),
        ({"blocks": "blocks.*"}, r"blocks must be a list of globs, got 'blocks.\*'; write blocks="),
        ({"depth": "a"}, "depth must be a whole number of at least 1, got 'a'"),
        ({"budget": "sqrt", "batch_size": "a"}, "batch_size must be a whole number of at least 1, got 'a'"),
        ({"budget": 3}, "budget must be a name, got 3"),
        ({"base": {"depth": 2}}, "base needs the width"),
        ({"base": {"width": 16, "heads": 2}}, "unknown size 'heads'"),
        ({"alpha": 0.3}, "alpha must be 0, 0.5 or 1, got 0.3"),
        ({"alpha": 1}, "scales with the model's depth"),
        ({"alpha": 1, "depth": 2, "base": {"width": 16, "depth": 2}}, "shapes do not show.*branches"),
        ({"depth": 2}, "is for a depth rule; add alpha"),
        ({"branches": BRANCHES}, "is for a depth rule; add alpha"),
        ({"budget": "sqrt"}, "scales with batch_size over"),
        ({"budget": "squared"}, "unknown budget rule"),
        ({"batch_size": 8}, "batch_size has no effect under budget=none"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        mup(Transformer(32), **options)
    assert "\n" not in str(refused.value)


def test_a_model_must_be_one() -> None:
    with pytest.raises(
        ConfigError, match=r"model must be an nn.Module, got int 3; build it first, as make\(width\) does"
    ):
        mup(3)  # type: ignore[arg-type]


def test_the_error_of_make_is_one_line() -> None:
    def make(width: int) -> nn.Module:
        raise ValueError("two\nlines")

    with pytest.raises(ConfigError, match=r"two lines$"):
        mup(Transformer(32), make)


def test_a_record_is_not_written_where_it_cannot_be(tmp_path: Path) -> None:
    found = mup(Transformer(32))
    with pytest.raises(
        ConfigError, match=r"write\('.*/missing/a.json'\) failed: No such file.*; name a file in a folder"
    ):
        found.write(tmp_path / "missing" / "a.json")
    with pytest.raises(ConfigError, match=r"failed: Is a directory"):
        found.write(tmp_path)


DEPTH: dict[str, Any] = {"base": {"width": 16, "depth": 2}, "alpha": 1}


@pytest.mark.parametrize(
    ("branches", "depth", "said"),
    [
        (["blocks.*.mlp", "blocks.*.mlp.*"], 4, r"twice: blocks\.0\.mlp\.up in blocks\.0\.mlp.*outer or the inner"),
        (["blocks.*", "blocks.*.mlp"], 4, r"twice: blocks\.0\.mlp in blocks\.0"),
        (["blocks.0.*"], 2, r"has blocks\.0\.attention, .* but not blocks\.1\.attention.*by one glob"),
        (["blocks.[0-2].mlp"], 3, r"but not blocks\.3\.mlp"),
        (
            BRANCHES,
            3,
            r"depth=3 does not fit 8 branches \(blocks\.0\.attention, .*, \.\.\.\).*correct depth or branches",
        ),
        (BRANCHES, 16, "depth=16 does not fit 8 branches"),
    ],
)
def test_branches_that_do_not_go_with_the_model_are_refused(branches: Any, depth: int, said: str) -> None:
    make = functools.partial(Transformer, depth=4)
    model = make(32)
    with pytest.raises(ConfigError, match=said) as refused:
        mup(model, make, branches=branches, depth=depth, blocks=[], **DEPTH)
    assert "\n" not in str(refused.value)
    mup(model, make, branches=BRANCHES, depth=4, **DEPTH)


def test_depth_may_count_the_sublayers() -> None:
    make = functools.partial(Transformer, depth=4)
    found = mup(make(32), make, branches=BRANCHES, depth=8, alpha=1, base={"width": 16, "depth": 4})
    assert set(found.branches.values()) == {0.5}


def test_what_must_be_said_of_branches() -> None:
    make = functools.partial(Transformer, gains=True)
    rule: dict[str, Any] = {"base": {"width": 16, "depth": 1}, "depth": 2, "alpha": 1}
    with pytest.raises(ConfigError, match=r"'blocks\.\*\.att' matches no module"):
        mup(make(32), make, branches=["blocks.*.att"], **rule)
    with pytest.raises(
        ConfigError, match=r"next to the branches are blocks\.0\.norm1\.weight.*\['blocks\.\*'\]; or give blocks=\[\]"
    ):
        mup(make(32), make, branches=BRANCHES, **rule)
    inside = mup(make(32), make, branches=BRANCHES, blocks=["blocks.*"], **rule).tuned
    outside = mup(make(32), make, branches=BRANCHES, blocks=[], **rule).tuned
    assert inside["blocks.0.norm1.weight"].rule.epsilon == outside["blocks.0.norm1.weight"].rule.epsilon / 2
    assert inside["norm.weight"].rule == outside["norm.weight"].rule


class Functional(nn.Module):
    """Model with a bare parameter as readout.

    Its attention reads its last layer's weights itself.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(20, width)
        self.attention = nn.MultiheadAttention(width, width // 8)
        self.matrix = nn.Parameter(torch.zeros(7, width))


def test_a_multiplier_that_no_hook_can_apply_is_refused() -> None:
    roles = {"matrix": "output"}
    with pytest.raises(ConfigError, match=r"no hook can do: matrix \(Functional\)"):
        mup(Functional(32), Functional, roles=roles)
    with pytest.raises(ConfigError, match=r"attention\.in_proj_weight.*attention\.out_proj\.weight \("):
        mup(Functional(32), Functional, roles=roles, parameterization="mfp")
    mup(Functional(32), Functional, roles=roles, parameterization="mup_table3")


def test_muon_takes_matrices_alone() -> None:
    class Convolutional(Perceptron):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.inner = nn.Conv2d(width, width, 3)

    with pytest.raises(
        ConfigError, match=r"optimizer=muon trains matrices.*inner\.weight \(hidden, 32x32x3x3\); take optimizer=adamw"
    ):
        mup(Convolutional(32), Convolutional, optimizer="muon")
    mup(Convolutional(32), Convolutional)
    with pytest.raises(ConfigError, match=r"middle\.bias .* hidden is a role of matrices; it is vector or fixed"):
        mup(Perceptron(32), Perceptron, roles={"middle.bias": "hidden"}, optimizer="muon")


def test_adam_without_decay_is_adamws_rule() -> None:
    ours, theirs = (list(mup(seeded(Transformer, 64), optimizer=name)) for name in ("adam", "adamw"))
    assert [group["lr"] for group in ours] == [group["lr"] for group in theirs]


def test_the_package_offers_both_without_importing_torch() -> None:
    import subprocess
    import sys

    from tests.support.helpers import environment

    code = "import sys, hptransfer; assert 'torch' not in sys.modules; hptransfer.parameterize, hptransfer.coord_check"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
    with pytest.raises(AttributeError, match="parametrize"):
        hptransfer.parametrize  # noqa: B018


def test_a_layer_without_sizes_is_refused_by_name() -> None:
    def lazy(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.LazyLinear(4))

    with pytest.raises(ConfigError, match=r"^1\.weight has no shape until the model has run; give"):
        hptransfer.parameterize(lazy(64), make=lazy, base=32, optimizer="adamw", lr=0.01)
