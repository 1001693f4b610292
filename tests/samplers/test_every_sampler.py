"""The kit that every sampler passes."""

from collections.abc import Callable

import pytest

from hptransfer.samplers import SAMPLERS, SamplerConfig
from hptransfer.testing import samplers

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.mark.parametrize("check", samplers.CHECKS)
@pytest.mark.parametrize("name", SAMPLERS.names())
def test_a_sampler_keeps_the_contract(name: str, check: Callable[[SamplerConfig], None]) -> None:
    check(SAMPLERS.get(name)(name=name))
