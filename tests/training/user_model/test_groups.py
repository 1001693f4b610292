"""Groups are accepted by the optimizer that they are made for only."""

import pickle
from typing import Any

import pytest
import torch
from pytorch_optimizer import AdaFactor, Lamb, Lion, SignSGD

from hptransfer.core.errors import ConfigError
from tests.support.user_models import Transformer, losses, mup, seeded, text

DECAYED: dict[str, Any] = {"settings": {"weight_decay": 0.1}}


def groups(optimizer: str, **options: Any) -> list[dict[str, Any]]:
    return list(mup(Transformer(64), optimizer=optimizer, **DECAYED, **options))


def step(optimizer: Any) -> None:
    """Take a step without gradients, before which the groups are checked."""
    optimizer.step()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_the_optimizer_that_is_named_takes_them(optimizer: str) -> None:
    build = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "lion": Lion}[optimizer]
    built = build(mup(Transformer(64), optimizer=optimizer))
    step(built)
    assert len(built.param_groups) == len(groups(optimizer))


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
        ("adamw", torch.optim.NAdam),
        ("sgd", SignSGD),
    ],
)
def test_another_one_is_refused(optimizer: str, build: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{build.__name__} was given groups made for.*optimizer={optimizer}.*; build"
    ):
        step(build(mup(Transformer(64), optimizer=optimizer)))


class Bare(torch.optim.SGD):
    """SGD without a momentum setting."""

    def __init__(self, params: Any) -> None:
        torch.optim.Optimizer.__init__(self, params, {"lr": 1.0})


def test_an_optimizer_that_would_leave_settings_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Bare was given groups made for SGD and does not know their .*momentum"):
        step(Bare(groups("sgd")))


@pytest.mark.parametrize("optimizer", ["adafactor", "adam_atan2", "shampoo"])
def test_groups_of_the_packages_own_go_through_optimizers(optimizer: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"optimizer={optimizer} is hptransfer's own.*take parameterized\.optimizers"
    ):
        groups(optimizer)


def test_muons_groups_in_one_optimizer_are_pointed_to_both() -> None:
    found = mup(Transformer(64), optimizer="muon")
    for build in (torch.optim.AdamW, torch.optim.SGD):
        with pytest.raises(ConfigError, match=r"groups for two optimizers.*take parameterized\.optimizers\(\)"):
            step(build(found))
    step(torch.optim.Muon([group for group in found if group["role"] == "hidden"]))
    step(torch.optim.AdamW([group for group in found if group["role"] != "hidden"]))


def test_torchs_adam_decays_as_adamw_does() -> None:
    def trained(build: Any) -> list[float]:
        return losses(model := seeded(Transformer, 64), [build(mup(model, **DECAYED))], [text(i) for i in range(5)])

    assert trained(torch.optim.Adam) == trained(torch.optim.AdamW)


class L2(torch.optim.Adam):
    """Adam without decoupled weight decay, as in torch's first versions."""

    def __init__(self, params: Any) -> None:
        torch.optim.Optimizer.__init__(self, params, {"lr": 1.0, "betas": (0.9, 0.9), "eps": 0.0, "weight_decay": 0.0})

    def step(self) -> None:  # type: ignore[override]
        pass


def test_an_adam_that_decays_through_the_gradient_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^L2 adds weight_decay 0\.1 to a gradient.*build AdamW"):
        step(L2(groups("adamw")))
    step(L2(mup(Transformer(64))))


def test_groups_outlive_checkpoints() -> None:
    optimizer = torch.optim.AdamW(groups("adamw"))
    again = torch.optim.AdamW(groups("adamw"))
    again.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    step(again)
    other = torch.optim.SGD(Transformer(64).parameters(), lr=0.1)
    step(other)  # groups of other libraries are not checked
