"""Scales as text."""

from __future__ import annotations

from collections.abc import Mapping


def name_of(axes: Mapping[str, float]) -> str:
    """A scale as text: "width=256,depth=4"."""
    return ",".join(f"{axis}={value:g}" for axis, value in axes.items())


def describe(values: Mapping[str, float]) -> str:
    """A scale as text: "width=256, depth=4"."""
    return ", ".join(f"{axis}={value:g}" if value < 1e6 else f"{axis}={value:.0f}" for axis, value in values.items())


def compact(value: float) -> str:
    """A size as it is short to read: 64, 214.7M, 20B."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:g}"


def brief(values: Mapping[str, float]) -> str:
    """A scale as it is short to read: "params=214.7M, tokens=4B"."""
    return ", ".join(f"{axis}={compact(value)}" for axis, value in values.items())
