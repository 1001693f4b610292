"""Assertions that several kits share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from hptransfer.core.errors import HptransferError


def assert_refused(call: Callable[[], Any], message: str, error: type[HptransferError]) -> None:
    """Assert that a call raises an error with a matching message."""
    text = None
    try:
        call()
    except error as raised:
        text = str(raised)
    assert text is not None, f"expected {error.__name__} with a message like {message!r}, but nothing was raised"
    assert re.search(message, text), f"expected a message like {message!r}, got {text!r}"


def assert_near(value: float, expected: float, *, relative: float = 0.0, absolute: float = 0.0, of: str) -> None:
    """Assert that two numbers agree within a tolerance.

    Args:
        of: their name in the message.
    """
    assert math.isclose(value, expected, rel_tol=relative, abs_tol=absolute), (
        f"{of}: expected {expected!r}, got {value!r} (relative tolerance {relative:g}, absolute {absolute:g})"
    )
