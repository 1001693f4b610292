"""Initial values get the base's spread times the table's factor.

Whatever the model's own law was.
"""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from hptransfer.core.errors import ConfigError
from tests.support.user_models import Perceptron, Transformer, losses, mup, seeded, text


def fixed(width: int) -> nn.Module:
    """Model whose matrices of every size have standard deviation 0.02."""
    model = Perceptron(width)
    for layer in (model.first, model.middle, model.last):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return model


def xavier(width: int) -> nn.Module:
    model = fixed(width)
    nn.init.xavier_normal_(model.first.weight)
    nn.init.orthogonal_(model.middle.weight)
    return model


def spreads(model: nn.Module) -> dict[str, float]:
    return {name: float(p.detach().double().square().mean().sqrt()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("make", [Perceptron, fixed, xavier])
def test_spread_goes_by_the_table_from_the_base(make: Callable[[int], nn.Module]) -> None:
    base, model = seeded(make, 256), seeded(make, 1024)
    mup(model, make, base=256)
    at_base, at_width = spreads(base), spreads(model)
    for name in ("first.weight", "last.weight"):
        assert at_width[name] == pytest.approx(at_base[name], rel=0.05)
    assert at_width["middle.weight"] == pytest.approx(at_base["middle.weight"] / 2, rel=0.02)


def test_usual_laws_are_taken_exactly() -> None:
    """Values are the model's draws times a power of two here.

    They hold no noise of a measurement.
    """
    for make, factors in (
        (Perceptron, {"first": 1, "middle": 1, "last": 2}),
        (fixed, {"first": 1, "middle": 0.5, "last": 1}),
    ):
        plain, model = seeded(make, 64), seeded(make, 64)
        mup(model, make)
        for name, factor in factors.items():
            assert torch.equal(getattr(model, name).weight, getattr(plain, name).weight * factor), name


def test_biases_keep_the_spread_of_the_base() -> None:
    """Torch draws biases by the fan-in, as its matrices."""
    plain, model = seeded(Perceptron, 64), seeded(Perceptron, 64)
    mup(model, Perceptron)
    assert torch.equal(model.first.bias, plain.first.bias)
    assert torch.equal(model.middle.bias, plain.middle.bias * 2)
    assert torch.equal(model.last.bias, plain.last.bias * 2)


def test_zeros_and_ones_stay() -> None:
    make = functools.partial(Transformer, gains=True)

    def silent(width: int) -> nn.Module:
        model = make(width)
        nn.init.zeros_(model.readout.weight)
        return model

    model = silent(64)
    mup(model, silent, parameterization="mup_table3")
    assert not model.readout.weight.any()
    assert (model.norm.weight == 1).all()


def test_a_law_of_no_usual_kind_is_taken_as_measured() -> None:
    def odd(width: int) -> nn.Module:
        model = Perceptron(width)
        nn.init.normal_(model.middle.weight, std=width**-0.25)
        return model

    base, model = seeded(odd, 64), seeded(odd, 256)
    mup(model, odd, base=64)
    assert spreads(model)["middle.weight"] == pytest.approx(spreads(base)["middle.weight"] / 2, rel=0.05)


def test_values_of_a_checkpoint_are_left_alone() -> None:
    model = Transformer(64)
    mup(model)
    trained = losses(model, [], [text()])
    loaded = Transformer(64)
    loaded.load_state_dict(model.state_dict())
    mup(loaded, rescale=False)
    assert losses(loaded, [], [text()]) == trained


def test_a_model_without_values_is_rescaled_when_it_has_some() -> None:
    with torch.device("meta"):
        model = Transformer(64)
    found = mup(model)
    assert all(parameter.is_meta for group in found for parameter in group["params"])
    model.to_empty(device="cpu")
    model.load_state_dict(seeded(Transformer, 64).state_dict())
    with pytest.raises(ConfigError, match="rescale_initial_values"):
        torch.optim.AdamW(found)
    found.rescale_initial_values()
    other = seeded(Transformer, 64)
    batches = [text(seed) for seed in range(3)]
    ours = losses(model, [torch.optim.AdamW(found)], batches)
    assert ours == losses(other, [torch.optim.AdamW(mup(other))], batches)
