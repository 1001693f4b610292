"""Groups go to the optimizer that they are made for, and to no other."""

import copy
import pickle
from typing import Any

import pytest
import torch
from pytorch_optimizer import AdaFactor, Lamb, Lion

from hptransfer.core.errors import ConfigError
from tests.training.foreign.models import Transformer, losses, mup, seeded, text

DECAYED: dict[str, Any] = {"settings": {"weight_decay": 0.1}}


def groups(optimizer: str, **options: Any) -> list[dict[str, Any]]:
    return list(mup(Transformer(64), optimizer=optimizer, **DECAYED, **options))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_the_optimizer_that_is_named_takes_them(optimizer: str) -> None:
    build = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "lion": Lion}[optimizer]
    assert len(build(mup(Transformer(64), optimizer=optimizer)).param_groups) == len(groups(optimizer))


@pytest.mark.parametrize(
    ("optimizer", "build"),
    [
        ("sgd", torch.optim.AdamW),
        ("sgd", torch.optim.RMSprop),
        ("lion", torch.optim.AdamW),
        ("adamw", torch.optim.SGD),
        ("adamw", torch.optim.Adagrad),
        ("adamw", Lion),
        ("adamw", Lamb),
        ("adamw", AdaFactor),
        ("adamw", torch.optim.Muon),
    ],
)
def test_another_one_is_refused(optimizer: str, build: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{build.__name__} was given groups made for.*optimizer={optimizer}.*; build"
    ):
        build(mup(Transformer(64), optimizer=optimizer))
    with pytest.raises(ConfigError, match="was given groups made for"):
        build(groups(optimizer))


def test_an_optimizer_that_would_leave_settings_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^ASGD was given groups made for SGD and does not know their momentum"):
        torch.optim.ASGD(groups("sgd"))


@pytest.mark.parametrize("optimizer", ["adafactor", "adam_atan2", "shampoo"])
def test_groups_of_the_packages_own_go_through_optimizers(optimizer: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"optimizer={optimizer} is the package's own.*take parameterized\.optimizers"
    ):
        groups(optimizer)


def test_muon_on_all_groups_is_pointed_to_both() -> None:
    found = mup(Transformer(64), optimizer="muon")
    for build in (torch.optim.Muon, torch.optim.AdamW, torch.optim.SGD):
        with pytest.raises(ConfigError, match=r"groups for two optimizers.*take parameterized\.optimizers\(\)"):
            build(found)
    torch.optim.Muon([group for group in found if group["role"] == "hidden"])
    torch.optim.AdamW([group for group in found if group["role"] != "hidden"])


def test_torchs_adam_decays_as_adamw_does() -> None:
    def trained(build: Any) -> list[float]:
        return losses(model := seeded(Transformer, 64), [build(mup(model, **DECAYED))], [text(i) for i in range(5)])

    assert trained(torch.optim.Adam) == trained(torch.optim.AdamW)


class L2(torch.optim.Adam):
    """An Adam that knows of no decoupled weight decay, as torch's own did not at first."""

    def __init__(self, params: Any) -> None:
        torch.optim.Optimizer.__init__(self, params, {"lr": 1.0, "betas": (0.9, 0.9), "eps": 0.0, "weight_decay": 0.0})


def test_an_adam_that_decays_through_the_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^L2 adds weight_decay 0\.1 to a gradient.*build AdamW"):
        L2(groups("adamw"))
    L2(mup(Transformer(64)))


def test_what_the_optimizer_holds_is_ordinary() -> None:
    optimizer = torch.optim.AdamW(mup(Transformer(64)))
    for group in optimizer.param_groups:
        assert type(group) is dict
        assert type(group["params"]) is list
    again = torch.optim.AdamW(Transformer(64).parameters())
    again = torch.optim.AdamW(mup(Transformer(64)))
    again.load_state_dict(optimizer.state_dict())
    pickle.loads(pickle.dumps(optimizer))


def test_groups_are_copied_and_joined_as_lists_are() -> None:
    (first, *_) = groups("adamw")
    assert copy.copy(first["params"]) == first["params"]
    assert [*first["params"]] == list(first["params"])
    torch.optim.SGD([{**first, "params": list(first["params"])}])
