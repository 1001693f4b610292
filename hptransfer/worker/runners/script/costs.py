"""What one run of a script costs: arithmetic over its names, or a function of the user's."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.formulas import Formula
from hptransfer.core.records import Number
from hptransfer.worker.runners.script.config import ScriptConfig

FUNCTION = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Costs:
    """Of one run; `tokens` is None where nobody says."""

    params: int
    flops: float
    tokens: int | None


def costs(config: ScriptConfig) -> Costs:
    """
    Raises:
        ConfigError: a cost is not given, or has no value above 0.
    """
    # A name that is tuned has no value here: what a scale costs cannot hang on it.
    names = {name: value for name, value in config.names.items() if value is not None}
    tokens = round(_cost("tokens", config.tokens, names, config)) if config.has_tokens else None
    if tokens is not None:
        names["tokens"] = tokens
    params = round(_cost("params", config.params, names, config))
    names["params"] = params
    formula = config.flops
    if formula is None and "flops" not in names:
        if tokens is None:
            raise ConfigError("run.flops must be given, or run.tokens: FLOPs are then 6 * params * tokens")
        formula = "6 * params * tokens"
    return Costs(params, float(_cost("flops", formula, names, config)), tokens)


def _cost(key: str, given: Any, names: Mapping[str, Any], config: ScriptConfig) -> Number:
    place = f"run.{key}"
    if given is None and key not in names:
        raise ConfigError(f"{place} must be given: arithmetic over {', '.join(names) or 'names'}, or module:function")
    written = key if given is None else str(given)
    if FUNCTION.fullmatch(written):
        value = _call(written, names, config, place)
    else:
        value = _compute(Formula(written, place), names, config)
    if isinstance(value, bool) or not isinstance(value, Number) or not 0 < value < math.inf:
        raise ConfigError(f"{place} must be a number above 0, got {value!r} from {written!r}")
    return value


def _compute(formula: Formula, names: Mapping[str, Any], config: ScriptConfig) -> Number:
    _refuse_tuned(formula.names, config, formula.place)
    return formula.value({name: value for name, value in names.items() if not isinstance(value, str)})


def _refuse_tuned(wanted: Any, config: ScriptConfig, place: str) -> None:
    for name in sorted(wanted):
        if name in config.names and config.names[name] is None:
            raise ConfigError(f"{place} goes by {name!r}, which is tuned; a scale's cost can only go by what is not")


def _call(written: str, names: Mapping[str, Any], config: ScriptConfig, place: str) -> Any:
    module, _, name = written.partition(":")
    with _importing_from(Path(config.cwd)):
        try:
            function = getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever a user's module does as it is imported
            raise ConfigError(f"{place}: {written} cannot be imported ({_line(error)})") from None
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        given = dict(names)
    else:
        given = {key: names[key] for key in parameters if key in names}
        needed = {key for key, one in parameters.items() if one.default is one.empty} - given.keys()
        _refuse_tuned(needed, config, place)
        for missing in sorted(needed):
            raise ConfigError(f"{place}: {written} takes {missing!r}; {unknown('name', missing, names)}")
    try:
        return function(**given)
    except Exception as error:
        raise ConfigError(f"{place}: {written} failed at {given} ({_line(error)})") from None


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
