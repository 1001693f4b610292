"""Costs of one run of a script: arithmetic or a user function."""

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

FUNCTION_NOTATION = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class Costs:
    """Costs of one run; `tokens` is None if it is not specified."""

    params: int
    flops: float
    tokens: int | None


def compute_costs(config: ScriptConfig) -> Costs:
    """Compute the costs of one run.

    Raises:
        ConfigError: a cost is not given, or has no value above 0.
    """
    # Tuned values are unavailable: a scale's cost must not depend on them.
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


def compute_last_step(config: ScriptConfig) -> Number | None:
    """Compute the last step of a complete run, if it is declared.

    It may depend on tuned values, such as a batch size.

    Raises:
        ConfigError: it has no value of at least 0.
    """
    if config.metric.last_step is None:
        return None
    costs = compute_costs(config)
    known = {**config.names, "params": costs.params, "flops": costs.flops, "tokens": costs.tokens}
    formula = Formula(str(config.metric.last_step), "run.metric.last_step")
    value = formula.value({name: value for name, value in known.items() if isinstance(value, int | float)})
    if value < 0:
        raise ConfigError(f"run.metric.last_step must be at least 0, got {value!r} from {formula.text!r}")
    return value


def _cost(key: str, setting: Any, names: Mapping[str, Any], config: ScriptConfig) -> Number:
    place = f"run.{key}"
    if setting is None and key not in names:
        raise ConfigError(f"{place} must be given: arithmetic over {', '.join(names) or 'names'}, or module:function")
    written = key if setting is None else str(setting)
    if FUNCTION_NOTATION.fullmatch(written):
        value = _call_function(written, names, config, place)
    else:
        value = _compute(Formula(written, place), names, config)
    if isinstance(value, bool) or not isinstance(value, Number) or not 0 < value < math.inf:
        raise ConfigError(f"{place} must be a number above 0, got {value!r} from {written!r}")
    return value


def _compute(formula: Formula, names: Mapping[str, Any], config: ScriptConfig) -> Number:
    _refuse_tuned(formula.names, config, formula.key)
    return formula.value({name: value for name, value in names.items() if not isinstance(value, str)})


def _refuse_tuned(names: Any, config: ScriptConfig, place: str) -> None:
    for name in sorted(names):
        if name in config.names and config.names[name] is None:
            raise ConfigError(f"{place} depends on {name!r}, which is tuned; a scale's cost must not depend on it")


def _call_function(written: str, names: Mapping[str, Any], config: ScriptConfig, place: str) -> Any:
    module, _, name = written.partition(":")
    with _importing_from(Path(config.cwd)):
        try:
            function = getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything as it is imported
            raise ConfigError(f"{place}: {written} cannot be imported ({_error_line(error)})") from None
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = dict(names)
    else:
        arguments = {key: names[key] for key in parameters if key in names}
        required = {
            key for key, parameter in parameters.items() if parameter.default is parameter.empty
        } - arguments.keys()
        _refuse_tuned(required, config, place)
        for missing in sorted(required):
            raise ConfigError(f"{place}: {written} needs {missing!r}; {unknown('name', missing, names)}")
    try:
        return function(**arguments)
    except Exception as error:
        raise ConfigError(f"{place}: {written} failed at {arguments} ({_error_line(error)})") from None


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


def _error_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
