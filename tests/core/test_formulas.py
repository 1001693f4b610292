"""Formulas of sweep files allow arithmetic only."""

import re
import time

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.core.formulas import Formula

NAMES = {"width": 64, "depth": 3, "tokens": 1_000_000, "lr": 0.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12 * depth * width**2", 12 * 3 * 64**2),
        ("6*width*tokens // 7 % 5 - -1", 6 * 64 * 1_000_000 // 7 % 5 + 1),
        ("(width + depth) / 4", 16.75),
        ("max(1, ceil(width / 100), min(depth, 2))", 2),
        ("sqrt(width) + log2(width) + floor(1.5) + round(2.6)", 8 + 6 + 1 + 3),
        ("round(lr / 3, 2)", 0.17),
        ("width ** lr", 8.0),
        ("2**100", 2**100),
        ("1e3", 1000.0),
    ],
)
def test_it_is_what_python_says(text: str, value: float) -> None:
    assert Formula(text, "run.params").value(NAMES) == value


def test_whole_numbers_stay_whole() -> None:
    assert isinstance(Formula("12 * depth * width**2", "run.params").value(NAMES), int)


def test_it_knows_its_names() -> None:
    assert Formula("max(width, depth) * width", "run.params").names == {"width", "depth"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('x')", "cannot be in a formula"),
        ("open('x')", "unknown function 'open'"),
        ("sqr(width)", "unknown function 'sqr'. Did you mean 'sqrt'?"),
        ("width.real", "'width.real' cannot be in a formula; allowed are numbers, names,"),
        ("[width]", "cannot be in a formula"),
        ("lambda: 1", "cannot be in a formula"),
        ("width if depth else 1", "cannot be in a formula"),
        ("width > 1", "cannot be in a formula"),
        ("(x := 3)", "cannot be in a formula"),
        ("'a' * 9", "cannot be in a formula"),
        ("True", "cannot be in a formula"),
        ("1j", "cannot be in a formula"),
        ("max(*width)", "cannot be in a formula"),
        ("round(width, ndigits=1)", "cannot be in a formula"),
        ("12 * * depth", "is not a formula (invalid syntax)"),
        ("", "is not a formula"),
        ("(" * 199 + "1" + ")" * 198, "is not a formula"),
        ("1+" * 600 + "1", "longer than 400 characters"),
    ],
)
def test_anything_else_is_refused_as_it_is_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^run.params.*" + re.escape(message)) as caught:
        Formula(text, "run.params")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widht * 2", "unknown name 'widht'. Did you mean 'width'?"),
        ("1 / (depth - 3)", "has no value at depth=3 (division by zero)"),
        ("sqrt(depth - 9)", "has no value at depth=3"),
        ("(depth - 9) ** lr", "it must be finite"),
        ("1e308 * 10", "is inf at any scale; it must be finite"),
        ("min(width)", "has no value"),
        ("10**(width*width)", "has no value"),
    ],
)
def test_a_value_that_is_none_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Formula(text, "run.params").value(NAMES)


def test_the_deepest_nesting_has_a_value() -> None:
    assert Formula("-" * 398 + "1", "run.params").value({}) == 1


def test_a_tower_of_powers_takes_no_time() -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match="has no value"):
        Formula("9**9**9**9", "run.params").value({})
    assert time.monotonic() - started < 30
