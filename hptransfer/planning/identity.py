"""Identity of a sweep: equal ones may share a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hptransfer.config.secret_values import has_secret
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.redaction import HIDDEN
from hptransfer.worker.runners import RUNNERS


def identity(config: SweepConfig, fingerprint: str) -> dict[str, Any]:
    """Return the flat keys that the numbers of trials depend on.

    Args:
        fingerprint: of the data or the script.
    """
    swept = {axis.path for axis in config.grid.values()} | {tuned.path for tuned in config.space.values()}
    runner = RUNNERS.get(config.run["runner"])
    settings = runner.identity_settings(config.run)
    flat = {path: value for path, value in _flatten("run", settings) if path not in swept}
    flat |= {f"grid.{key}": axis.path for key, axis in config.grid.items()}
    for key, tuned in config.space.items():
        flat[f"space.{key}"] = f"1 - {tuned.path}" if tuned.one_minus else tuned.path
    return {**flat, runner.fingerprint_source(config.run): fingerprint}


def _flatten(prefix: str, node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [leaf for key, value in node.items() for leaf in _flatten(f"{prefix}.{key}", value)]
    return [(prefix, node)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each key in which two identities differ.

    A secret that an earlier version stored is not shown.
    """
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return [f"{key} is {_shown(old.get(key), key)} there, {_shown(new.get(key), key)} here" for key in keys]


def _shown(value: Any, key: str) -> Any:
    return HIDDEN if has_secret(value, key) else value
