"""The kit that every estimator passes."""

from collections.abc import Callable

import pytest

from hptransfer.analysis.optima.estimators import ESTIMATORS
from hptransfer.testing import estimators


@pytest.mark.parametrize("check", estimators.CHECKS)
@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_known_optima_are_found(name: str, check: Callable[[str], None]) -> None:
    check(name)
