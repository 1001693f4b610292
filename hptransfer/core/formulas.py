"""Formulas over names in sweep files, such as "12 * width**2".

Formulas are parsed by `ast` and evaluated here; `eval` is never called.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.records import Number

FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
    "sqrt": math.sqrt,
    "log2": math.log2,
}


def _power(base: Number, exponent: Number) -> Any:
    """Raise to a power, exactly for integers up to EXACT_BITS.

    Larger results are floats, so 9**9**9 overflows at once instead of running for an hour.
    """
    bits = base.bit_length() * exponent if isinstance(base, int) and isinstance(exponent, int) else math.inf
    return base**exponent if bits <= EXACT_BITS else float(base) ** float(exponent)


EXACT_BITS = 1024
MAX_LENGTH = 400  # bounds the depth of nesting
BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


@dataclass(frozen=True)
class Formula:
    """Arithmetic formula over names.

    Allowed are numbers, names, + - * / // % **, parentheses and FUNCTIONS.

    Attributes:
        key: its key in the sweep file, for messages.

    Raises:
        ConfigError: the text is not such a formula.
    """

    text: str
    key: str

    def __post_init__(self) -> None:
        self._check(self._tree())

    @property
    def names(self) -> frozenset[str]:
        """Names that its value depends on."""
        nodes = list(ast.walk(self._tree()))
        functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        return frozenset(node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in functions)

    def check_names(self, known: Mapping[str, object]) -> None:
        """Raise ConfigError unless every name is known."""
        for name in sorted(self.names - known.keys()):
            raise ConfigError(f"{self.key}: {unknown('name', name, known)} (in {self.text!r})")

    def value(self, names: Mapping[str, Number]) -> Number:
        """Return the formula's value.

        Raises:
            ConfigError: a name is unknown, or the result is not finite (a division by 0, for example).
        """
        self.check_names(names)
        try:
            result: Number | complex = _evaluate(self._tree(), names)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.key}: {self.text!r} has no value at {_format_values(self, names)} ({error})"
            ) from None
        if isinstance(result, complex) or not math.isfinite(result):
            raise ConfigError(
                f"{self.key}: {self.text!r} is {result} at {_format_values(self, names)}; it must be finite"
            )
        return result

    def _tree(self) -> ast.expr:
        if len(self.text) > MAX_LENGTH:
            raise ConfigError(f"{self.key} is longer than {MAX_LENGTH} characters; give it as module:function")
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ConfigError(f"{self.key}: {self.text!r} is not a formula ({reason})") from None

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                parts: list[ast.expr] = []
            case ast.Name():
                parts = []
            case ast.BinOp() if type(node.op) in BINARY:
                parts = [node.left, node.right]
            case ast.UnaryOp() if type(node.op) in UNARY:
                parts = [node.operand]
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
                parts = node.args
            case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
                raise ConfigError(f"{self.key}: {unknown('function', name, FUNCTIONS)} (in {self.text!r})")
            case _:
                raise ConfigError(
                    f"{self.key}: {ast.unparse(node)!r} cannot be in a formula; allowed are numbers, names, "
                    f"+ - * / // % **, parentheses and {', '.join(FUNCTIONS)}"
                )
        for part in parts:
            self._check(part)


def _evaluate(node: ast.expr, names: Mapping[str, Number]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names[node.id]
        case ast.BinOp():
            return BINARY[type(node.op)](_evaluate(node.left, names), _evaluate(node.right, names))
        case ast.UnaryOp():
            return UNARY[type(node.op)](_evaluate(node.operand, names))
        case ast.Call(func=ast.Name(id=name)):
            return FUNCTIONS[name](*(_evaluate(argument, names) for argument in node.args))
    raise AssertionError(node)  # refused by Formula._check


def _format_values(formula: Formula, names: Mapping[str, Number]) -> str:
    return ", ".join(f"{name}={names[name]}" for name in sorted(formula.names)) or "any scale"
