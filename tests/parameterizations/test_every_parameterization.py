"""The kit that every parameterization passes."""

from collections.abc import Callable

import pytest

from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.testing import parameterizations


@pytest.mark.parametrize("check", parameterizations.CHECKS)
@pytest.mark.parametrize("name", PARAMETERIZATIONS.names())
def test_a_table_keeps_the_contract(name: str, check: Callable[[str], None]) -> None:
    check(name)
