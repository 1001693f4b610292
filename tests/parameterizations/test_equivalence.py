"""Forms of one parameterization train the same net, to the last bit.

a + theta, b - theta only renames weights.

Arithmetic with powers of two is exact, so that at widths of 4^k times the base every factor n^(1/2) is: nothing but the
place of a factor differs between two forms, and nothing else may.
"""

import dataclasses
import itertools

import pytest
import torch

from hptransfer.parameterizations import ZERO, Parameterization
from hptransfer.training.config import Base
from hptransfer.training.models.mlp import MlpConfig
from hptransfer.training.optimizers import OPTIMIZERS, OptimizerConfig
from hptransfer.training.stack import Stack
from tests.support.plain import batches, stack_losses
from tests.support.settings import of_model
from tests.support.slow import slow_except

BASE = 16
MUP = ("mup", "mup_table3", "mup_sqrt", "mfp")
KERNEL = ("sp", "ntk")
"""The two classes (arXiv:2407.05872, section 2)."""
# Settings under which a step shows all that has to move with the form: an epsilon that counts, decay, momentum.
SETTINGS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "adamw": {"eps": 1e-3},
    "adam_atan2": {},
    "lion": {"lr": 2.0**-10},
    # Its floor on the weights' size is the same in all forms.
    "adafactor": {"floor": 0.0},
    "muon": {"eps": 1e-3},
    "shampoo": {"lr": 2.0**-6},
    "kfac": {"damping": 0.1},
}
MATRIX_METHODS = {"shampoo", "kfac"}
"""Their powers of eigenvalues are rounded."""


def losses(name: str, form: str, width: int, alignment: str = "full") -> list[float]:
    optimizer: OptimizerConfig = OPTIMIZERS.get(name)(name=name, weight_decay=0.1, **SETTINGS[name])
    run = dataclasses.replace(
        of_model("mlp"),
        model=MlpConfig(width=width, depth=3, activation="tanh", biases=True),
        base=Base(width=BASE),
        parameterization=form,
        alignment=alignment,
        optimizer=optimizer,
    )
    return stack_losses(Stack([run], [0], device="cpu", dtype=torch.float64), batches(run))


def test_every_optimizer_is_here() -> None:
    assert sorted(SETTINGS) == sorted(OPTIMIZERS.names())


@pytest.mark.parametrize(
    ("name", "forms", "alignment"),
    slow_except(
        itertools.product(SETTINGS, [MUP, KERNEL], ["full", "none"]),
        ("adamw", MUP, "full"),
        ("sgd", KERNEL, "none"),
        ("muon", MUP, "none"),
        ("adafactor", KERNEL, "full"),
    ),
)
def test_forms_of_one_parameterization_train_the_same_net(name: str, forms: tuple[str, ...], alignment: str) -> None:
    for width in (BASE, 4 * BASE) if name in {*MATRIX_METHODS, "muon"} else (BASE, 4 * BASE, 16 * BASE):
        assert_same_net(name, forms, alignment, width)


@pytest.mark.slow
@pytest.mark.parametrize("alignment", ["full", "none"])
@pytest.mark.parametrize("forms", [MUP, KERNEL], ids=["mup", "kernel"])
def test_muons_iteration_is_exact_at_sixteen_times_the_base_too(forms: tuple[str, ...], alignment: str) -> None:
    """Its products in bfloat16 take most of a minute there."""
    assert_same_net("muon", forms, alignment, 16 * BASE)


def assert_same_net(name: str, forms: tuple[str, ...], alignment: str, width: int) -> None:
    first, *others = (losses(name, form, width, alignment) for form in forms)
    assert first[-1] < first[0] - 0.1  # they went somewhere
    for other in others:
        assert other == (pytest.approx(first, rel=1e-12) if name in MATRIX_METHODS else first)


@pytest.mark.parametrize("name", slow_except(SETTINGS, "adamw", "sgd"))
def test_the_two_classes_train_different_nets(name: str) -> None:
    """Their readouts differ, but nothing does at the base."""
    assert losses(name, "mup", BASE) == losses(name, "sp", BASE)
    assert losses(name, "mup", 4 * BASE) != pytest.approx(losses(name, "sp", 4 * BASE), rel=1e-3)


@pytest.mark.parametrize("rule", ["epsilon", "learning_rate"])
def test_a_rule_that_does_not_follow_the_form_is_seen(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parameterization, rule, lambda *arguments: ZERO)
    assert losses("adamw", "mup", 4 * BASE) != pytest.approx(losses("adamw", "mfp", 4 * BASE), rel=1e-3)
