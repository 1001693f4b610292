"""The coordinate check of a user's model follows theory.

It passes under muP and fails under SP.
"""

import functools
import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer import coord_check, parameterize
from hptransfer.coordcheck.judgement import Check
from hptransfer.core.errors import ConfigError
from hptransfer.training.user_model.parameterize import Choices
from tests.support.user_models import Perceptron, Transformer, examples, loss, text

WIDTHS = (64, 128, 256, 512)


def check(make: Any = Perceptron, batch: Any = None, **options: Any) -> Check:
    given: dict[str, Any] = {"base": 64, "optimizer": "adamw", "lr": 2.0**-6, "widths": WIDTHS, "seeds": 2}
    return coord_check(make, batch=batch or examples(), **{"loss": loss, **given, **options})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("parameterization", ["mup", "mfp", "mup_sqrt", "mup_table3"])
def test_mup_in_all_its_forms_passes(parameterization: str, optimizer: str) -> None:
    found = check(parameterization=parameterization, optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 2.0**-6)
    assert found.passed, found.fails
    assert not found.expected


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_sp_fails_as_expected(optimizer: str) -> None:
    found = check(parameterization="sp", optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 2.0**-6)
    assert not found.passed
    assert "one learning rate for all" in found.expected
    slopes = {row.name: row.slopes for row in found.rows}
    assert slopes["outputs"][1] > 0.4
    assert found.sizes == list(WIDTHS)
    assert found.columns == ["start", "change 1", "change 2", "change 3", "change 4"]


def silent(width: int) -> nn.Module:
    model = Transformer(width)
    nn.init.zeros_(model.readout.weight)
    return model


def test_a_transformer_passes_under_mup_and_not_under_sp() -> None:
    options: dict[str, Any] = {"make": silent, "batch": text(), "widths": (64, 128, 256), "lr": 2.0**-7}
    found = check(**options)
    assert found.passed, found.fails
    assert not check(**options, parameterization="sp").passed


class Reused(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.middle(torch.relu(self.first(x))))
        return self.last(torch.relu(self.middle(h)))  # type: ignore[no-any-return]


def test_a_module_that_is_used_twice_is_recorded_twice() -> None:
    names = {row.name for row in check(Reused, widths=(64, 128), steps=1).rows}
    assert names == {"first", "middle", "middle #2", "last", "outputs"}


def test_it_leaves_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    first = check(widths=(64, 128), steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert check(widths=(64, 128), steps=1) == first


def of_depth(width: int, depth: int) -> nn.Module:
    model = Transformer(width, depth=depth)
    nn.init.zeros_(model.readout.weight)
    return model


OVER_DEPTH: dict[str, Any] = {
    "make": of_depth,
    "batch": text(),
    "widths": (),
    "depths": (2, 4, 8, 16),
    "base": {"width": 32, "depth": 2},
    "lr": 2.0**-7,
    "steps": 3,
}


@pytest.mark.slow
def test_over_depth_it_passes_under_a_depth_rule_and_not_without() -> None:
    found = check(**OVER_DEPTH, alpha=1, branches=["blocks.*.attention", "blocks.*.mlp"])
    assert found.passed, found.fails
    assert found.axis == "depth"
    assert not found.expected
    assert {row.name for row in found.rows} == {"tokens", "positions", "norm", "readout", "outputs"}
    plain = check(**{**OVER_DEPTH, "base": 32})
    assert not plain.passed
    assert "without a depth rule" in plain.expected


def test_a_depth_rule_is_taken_over_width_too() -> None:
    options: dict[str, Any] = {"make": silent, "batch": text(), "widths": (64, 128), "steps": 1, "lr": 2.0**-7}
    rule = {"base": {"width": 64, "depth": 1}, "depth": 2, "branches": ["blocks.*.attention", "blocks.*.mlp"]}
    with_rule, without = check(**options, **rule, alpha=1), check(**options)
    assert sizes(with_rule, "blocks.0.mlp") == pytest.approx(
        [size / 2 for size in sizes(without, "blocks.0.mlp")], rel=0.02
    )


def sizes(found: Check, name: str) -> list[float]:
    """Return sizes of a module's output before training, by width."""
    (row,) = (row for row in found.rows if row.name == name)
    return [values[0] for values in row.values]


def test_a_batch_rule_is_taken() -> None:
    rule: dict[str, Any] = {"base": {"width": 64, "batch_size": 4}, "budget": "sqrt", "batch_size": 16}
    faster, plain = check(widths=(64, 128), steps=1, **rule), check(widths=(64, 128), steps=1, lr=2.0**-5)
    for ours, theirs in zip(faster.rows, plain.rows, strict=True):
        assert ours.values == [pytest.approx(values, rel=1e-3) for values in theirs.values]


def test_it_takes_what_parameterize_takes() -> None:
    taken = inspect.signature(parameterize).parameters
    assert Choices.__annotations__.keys() == taken.keys() - {"model", "make", "base", "rescale"}


class TiedByCall(Transformer):
    """Transformer with the embedding's table as readout, by a call.

    The matrix that is called a readout is another one.
    """

    def __init__(self, width: int, product: str = "linear") -> None:
        super().__init__(width)
        self.product = product

    def forward(self, indices_BS: Tensor) -> Tensor:
        x_BSD, table = self.tokens(indices_BS), self.tokens.weight
        y_BSV = {
            "linear": lambda: F.linear(x_BSD, table),
            "matmul": lambda: x_BSD @ table.T,
            "einsum": lambda: torch.einsum("bsd,vd->bsv", x_BSD, table),
        }[self.product]()
        return y_BSV + self.readout(x_BSD)  # type: ignore[no-any-return]


@pytest.mark.parametrize("product", ["linear", "matmul", "einsum"])
def test_a_readout_that_is_tied_by_a_call_is_seen(product: str) -> None:
    with pytest.raises(
        ConfigError, match=r"tokens\.weight is an embedding, and by a call of .* a readout too.*call head"
    ):
        check(functools.partial(TiedByCall, product=product), text())


def test_weights_that_are_tied_as_modules_are_let_through() -> None:
    check(functools.partial(Transformer, tied=True), text(), widths=(64, 128), steps=1)


def vector_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"widths": (64, 64)}, r"widths must be two or more different sizes, got \[64, 64\]; three"),
        ({"widths": ("a", 64)}, r"widths\[0\] must be a whole number of at least 1, got 'a'"),
        ({"widths": (64, 0)}, r"widths\[1\] must be a whole number of at least 1, got 0"),
        ({"widths": 64}, r"widths must be a list of sizes, got 64; write it as widths=\(64, 128, 256\)"),
        ({"depths": (2, 4)}, r"widths \[64, 128, 256, 512\] and depths \[2, 4\] are two checks; give one"),
        (
            {"depths": (2, 4), "widths": ()},
            r"make_model must be a function of \(width, depth\), but the given one has too many",
        ),
        ({"make": 3}, r"make_model must be a function of \(width\), got 3; write it as lambda width: \.\.\."),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": "x"}, "steps must be a whole number of at least 1, got 'x'"),
        ({"seeds": 1.5}, "seeds must be a whole number of at least 1, got 1.5"),
        ({"loss": None}, r"loss must be a function of \(model, batch\), got None; write it as lambda model, batch"),
        ({"loss": lambda model: model}, r"loss must be a function of \(model, batch\), but the given one has too many"),
        ({"loss": lambda model, batch: 3.0}, "must return a tensor of one number, and returns float"),
        ({"loss": vector_loss}, "must return one number, and returns 16x7; take its mean"),
        ({"loss": lambda model, batch: model(batch[0]).sum().detach()}, "must have a gradient.*without detach"),
        ({"loss": lambda model, batch: model.last.weight.sum()}, "nothing can be judged"),
        ({"parameterization": "umup"}, "scales every operation"),
        ({"lr": "a"}, "lr must be a number, got 'a'"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        check(**options)
    assert "\n" not in str(refused.value)
