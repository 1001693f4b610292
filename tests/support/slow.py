"""Cases of a parametrized test that `make test-slow` alone runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the cases of a parametrized test; all but `fast` are marked slow."""
    cases = list(cases)
    assert all(case in cases for case in fast), f"{fast} must be among the cases {cases}"
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        case if case in fast else pytest.param(*value, marks=pytest.mark.slow)
        for case, value in zip(cases, values, strict=True)
    ]
