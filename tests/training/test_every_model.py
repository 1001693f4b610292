"""Contract of every model, with its options: sizes, roles, training, stacks."""

from typing import Any

import pytest
import torch

from hptransfer.core.errors import ConfigError
from hptransfer.testing import models
from hptransfer.training.layers import tagged
from tests.support.model_cases import CALM, every_model, every_plain_model
from tests.support.settings import small


@every_model
def test_parameters_and_flops_are_what_the_formulas_say(name: str, options: dict[str, Any]) -> None:
    models.check_sizes(name, **options)


@every_model
def test_every_parameter_has_a_role(name: str, options: dict[str, Any]) -> None:
    models.check_roles(name, **options)


def test_a_parameter_without_a_role_is_an_error() -> None:
    model = small().model.build(trials=1, shape=small().shape)
    model.stray = torch.nn.Parameter(torch.zeros(3))
    model.norm.other = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match=r"without a role: stray, norm\.other; a layer of .* must own each"):
        list(tagged(model))


@every_plain_model
def test_the_loss_falls(name: str, options: dict[str, Any]) -> None:
    models.check_loss_falls(name, lr=2.0**-7 if name == "resnet" else 2.0**-6, **options)


@every_plain_model
def test_a_stack_gives_each_trial_the_numbers_that_it_has_alone(name: str, options: dict[str, Any]) -> None:
    """In float64 at twelve steps; test_same_numbers has the other types, optimizers, and fifty steps."""
    models.check_stacking(name, rate=CALM.get((name, "adamw"), 1.0), **options)


@every_plain_model
def test_a_trial_that_leaves_a_stack_leaves_the_others_as_they_were(name: str, options: dict[str, Any]) -> None:
    models.check_leaving(name, **options)


@every_plain_model
def test_each_trial_has_its_own_constants(name: str, options: dict[str, Any]) -> None:
    """Multipliers, initial spreads and branch factors that differ by trial, stacked as alone."""
    models.check_constants(name, **options)
