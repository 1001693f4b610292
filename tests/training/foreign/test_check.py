"""The coordinate check of anybody's model passes under muP and fails under SP, as theory says."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hptransfer import coord_check
from hptransfer.core.errors import ConfigError
from hptransfer.training.coordcheck import Check
from tests.training.foreign.models import Perceptron, Transformer, examples, loss, text

WIDTHS = (64, 128, 256, 512)


def check(make: Any = Perceptron, batch: Any = None, **options: Any) -> Check:
    given: dict[str, Any] = {"base": 64, "optimizer": "adamw", "lr": 2.0**-6, "widths": WIDTHS, "seeds": 2}
    return coord_check(make, batch=batch or examples(), loss=loss, **{**given, **options})


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"widths": (64, 64)}, r"widths must be two or more different sizes"),
        ({"steps": 0}, "steps and seeds must be at least 1"),
        ({"parameterization": "umup"}, "scales every operation"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(**options)
