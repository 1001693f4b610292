"""Roles are inferred from shapes at two widths.

Roles that shapes cannot decide are refused, all at once, and can be given.
"""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hptransfer.core.errors import ConfigError
from tests.support.user_models import Perceptron, Transformer, mup


def roles(parameterized: Any) -> dict[str, str]:
    return {name: one.item.role.value for name, one in parameterized.tuned.items()}


def with_extra(extra: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """Return a perceptron with another, unused module."""

    def make(width: int) -> nn.Module:
        model = Perceptron(width)
        model.extra = extra(width)
        return model

    return make


def test_every_parameter_of_a_perceptron() -> None:
    assert roles(mup(Perceptron(32), Perceptron)) == {
        "first.weight": "input",
        "first.bias": "vector",
        "middle.weight": "hidden",
        "middle.bias": "vector",
        "last.weight": "output",
        "last.bias": "fixed",
    }


def test_every_parameter_of_a_transformer() -> None:
    make = functools.partial(Transformer, depth=1, gains=True)
    found = roles(mup(make(32), make))
    assert {name for name, role in found.items() if role == "input"} == {"tokens.weight", "positions.weight"}
    assert {name for name, role in found.items() if role == "output"} == {"readout.weight"}
    assert {name.split(".")[-2] for name, role in found.items() if role == "vector"} == {"norm1", "norm2", "norm"}
    assert found["blocks.0.mlp.down.weight"] == found["blocks.0.attention.qkv.weight"] == "hidden"


@pytest.mark.parametrize(
    ("extra", "name", "role", "fans"),
    [
        (lambda w: nn.Conv2d(3, w, 3), "weight", "input", (27, 32)),
        (lambda w: nn.Conv2d(w, 2 * w, 3), "weight", "hidden", (288, 64)),
        (lambda w: nn.Conv2d(w, w, 3, groups=w), "weight", "input", (9, 32)),
        (lambda w: nn.ConvTranspose2d(w, 2 * w, 3), "weight", "hidden", (288, 64)),
        (lambda w: nn.MultiheadAttention(w, w // 8), "in_proj_weight", "hidden", (32, 96)),
        (lambda w: nn.LSTM(5, w), "weight_ih_l0", "input", (5, 128)),
        (lambda w: nn.LayerNorm(w), "weight", "vector", (1, 32)),
        (lambda w: nn.ParameterList([torch.zeros(1, 1, w)]), "0", "vector", (1, 32)),
        (lambda w: nn.ParameterList([torch.zeros(8, w, 2 * w)]), "0", "hidden", (32, 32)),
        (lambda w: nn.LayerNorm(8), "weight", "fixed", (1, 1)),
    ],
)
def test_other_modules(extra: Any, name: str, role: str, fans: tuple[int, int]) -> None:
    make = with_extra(extra)
    one = mup(make(32), make).tuned[f"extra.{name}"]
    assert one.item.role.value == role
    assert one.item.fans == fans


def test_sides_that_grow_unequally_have_their_own_sizes() -> None:
    make = with_extra(lambda w: nn.Linear(w, w * w // 16, bias=False))
    sizes = mup(make(32), make).tuned["extra.weight"].sizes
    assert (sizes.fan_in, sizes.fan_out, sizes.largest) == (2, 4, 4)


def ambiguous(width: int) -> nn.Module:
    model = Perceptron(width)
    model.router = nn.Linear(width, 4, bias=False)
    model.table = nn.Parameter(torch.zeros(9, width))
    model.cube = nn.Parameter(torch.zeros(width, width, width))
    model.uneven = nn.Parameter(torch.zeros(width, width * width))
    model.words = nn.Embedding(width, 5)
    return model


def test_all_parameters_that_cannot_be_told_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        mup(ambiguous(32), ambiguous)
    message = str(refused.value)
    for name in ("router.weight (4x16, wider 4x32)", "table (9x16", "cube (16x16x16", "uneven", "words.weight"):
        assert name in message
    assert "last.weight" in message, "either may be the readout"
    assert "middle.weight" not in message
    assert "\n" not in message


def test_what_shapes_cannot_tell_can_be_said() -> None:
    def make(width: int) -> nn.Module:
        model = Perceptron(width)
        model.router = nn.Linear(width, 4, bias=False)
        model.table = nn.Parameter(torch.zeros(9, width))
        return model

    found = mup(make(32), make, roles={"last.*ght": "output", "router.weight": "output", "table": "input"})
    assert roles(found)["router.weight"] == "output"
    assert found.tuned["table"].sizes.fan_out == 2
    with pytest.raises(ConfigError, match=r"router\.weight"):
        mup(make(32), make, roles={"last.weight": "output", "table": "input"})


def test_one_key_value_head_is_hidden_though_its_output_does_not_grow() -> None:
    make = functools.partial(Transformer, one_key=True)
    with pytest.raises(ConfigError, match=r"blocks\.0\.attention\.kv\.weight.*blocks\.1.*readout\.weight"):
        mup(make(32), make)
    found = mup(make(32), make, roles={"*.kv.weight": "hidden", "readout.weight": "output"})
    sizes = found.tuned["blocks.1.attention.kv.weight"].sizes
    assert (sizes.fan_in, sizes.fan_out) == (2, 1)
    assert found.tuned["blocks.1.attention.kv.weight"].settings["lr"] == 2.0**-7


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"middle.bias": "hidden"}, "middle.bias .*hidden is a role of matrices"),
        ({"middle.weight": "vector"}, "grows along one dimension"),
        ({"midle.*": "hidden"}, r"midle\.\*'\] matches no parameter"),
        ({"middle.*": "hiden"}, "Did you mean 'hidden'"),
    ],
)
def test_roles_that_cannot_be(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mup(Perceptron(32), Perceptron, roles=given)


def test_a_readout_that_is_tied_by_a_call_is_refused() -> None:
    make = functools.partial(Transformer, tied="call")
    with pytest.raises(ConfigError, match=r"no readout found.*F\.linear.*head\.weight = embedding\.weight"):
        mup(make(32), make)
    with pytest.raises(ConfigError, match=r"tokens\.weight .*an embedding, whose rows are looked up, is not output"):
        mup(make(32), make, roles={"tokens.weight": "output"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (functools.partial(Transformer, depth=3), r"except for its width, depth included.*blocks\.2"),
        (lambda width: Transformer(32), "the same shapes at both widths"),
        (functools.partial(Perceptron, bias=False), "not in both"),
    ],
)
def test_make_must_build_the_model_but_for_its_width(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mup(Transformer(32), make)


def test_another_difference_than_width_is_named() -> None:
    model = Perceptron(32)
    model.last = nn.Linear(32, 9)
    with pytest.raises(ConfigError, match=r"last\.weight \(9x32, by make 7x16 and 7x32\); last\.bias"):
        mup(model, Perceptron)


class Headed(nn.Module):
    """Readout after attention that shows its number of heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads)
        self.readout = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.attention(x, x, x)[0])  # type: ignore[no-any-return]


class Counted(Perceptron):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.n_head = 4


def test_heads_that_widen_are_warned_of() -> None:
    def make(width: int) -> nn.Module:
        return Headed(width, 2)

    with pytest.warns(UserWarning, match=r"attention.head_dim is 8 and 16"):
        mup(make(32), make)
    with pytest.warns(UserWarning, match=re.escape(".n_head is 4 at both widths")):
        mup(Counted(32), Counted)


def test_heads_that_keep_their_size_are_not() -> None:
    def make(width: int) -> nn.Module:
        return Headed(width, width // 8)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mup(make(32), make)
