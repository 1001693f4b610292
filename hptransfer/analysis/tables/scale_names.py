"""Scales as text for people; identities use exact values instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hptransfer.core.records import exact, plain_exponent, short

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
SMALLEST_UNIT = 1e6
# Sizes from here on, such as FLOPs, have an exponent instead of a unit.
LARGEST_SIZE = 1e15


def format_size(value: float) -> str:
    """Return a size in short form: 64, 214.7M, 20B, 1e21."""
    if not SMALLEST_UNIT <= round(value, 0) < LARGEST_SIZE:
        return short(float(value)) if value >= LARGEST_SIZE else plain_exponent(f"{value:g}")
    rounded = float(f"{value:.4g}")
    unit, name = next(pair for pair in UNITS if rounded >= pair[0])
    return f"{rounded / unit:.4g}{name}"


def format_scale(axes: Mapping[str, float], among: Iterable[Mapping[str, float]] = ()) -> str:
    """Return a scale in short form: "params=214.7M, tokens=4B".

    Args:
        among: scales that the reader must be able to distinguish from this one. If another one of them has the same
            short form, the text has exact digits.
    """
    text = _joined({axis: format_size(value) for axis, value in axes.items()})
    alike = (scale for scale in among if _joined({axis: format_size(scale[axis]) for axis in axes}) == text)
    if any(scale[axis] != value for scale in alike for axis, value in axes.items()):
        return _joined({axis: exact(float(value)) for axis, value in axes.items()})
    return text


def _joined(values: Mapping[str, str]) -> str:
    return ", ".join(f"{axis}={text}" for axis, text in values.items())
