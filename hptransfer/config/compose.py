"""From a sweep file and overrides to a checked configuration; the only importer of Hydra.

Hydra composes and nothing else: no main decorator, no multirun, no instantiation by target.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hptransfer.config import sweep as sweep_config
from hptransfer.config.renamed import refuse_old_key, refuse_old_words
from hptransfer.config.sweep import SweepConfig
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.registry import Registry
from hptransfer.core.resources import resource_folders
from hptransfer.worker.runners.script.config import ScriptConfig


def sweep_names() -> list[str]:
    """Sweeps that can be named without a path."""
    return sorted({path.stem for folder in resource_folders("sweeps") for path in folder.glob("*.yaml")})


def find_sweep(sweep: str) -> Path:
    """The file of a sweep given by name or by path.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(sweep)
    if path.stem == "sweep" and path.suffix:
        raise ConfigError(
            f"{sweep}: a sweep file cannot be called sweep, which its defaults call the schema; rename it"
        )
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"no sweep file {sweep!r}; give a path that exists, or one of {', '.join(sweep_names())}")
        return path.resolve()
    for folder in resource_folders("sweeps"):
        if (folder / f"{sweep}.yaml").is_file():
            return (folder / f"{sweep}.yaml").resolve()
    raise ConfigError(unknown("sweep", sweep, sweep_names()))


def compose(sweep: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep with its overrides applied, checked as far as it can be without its runs.

    Raises:
        ConfigError: an unknown sweep, key or value, or one that breaks a rule.
    """
    path = find_sweep(sweep)
    check_form(overrides)
    register_schemas(builtin=not _chooses_script(_read(path), overrides))
    check_groups(overrides)
    search = ",".join(f"file://{folder}" for folder in resource_folders("configs"))

    try:
        refuse_old_words(_read(path))
        for override in overrides:
            key, _, value = override.lstrip("+~").partition("=")
            refuse_old_key(key, value.strip().lower() != "false")
    except ConfigError as error:
        raise ConfigError(f"{error} ({_shown(path)})") from None

    def composed(*overrides: str) -> dict[str, Any]:
        return compose_yaml(path.parent, path.stem, [f"hydra.searchpath=[{search}]", *overrides])

    def chosen() -> dict[str, Any]:
        """The sweep with the members that were chosen, whose keys may be set."""
        groups = ("run", *CHOSEN.values(), *sweep_config.FAMILIES)
        return composed(*(override for override in overrides if override.lstrip("+").partition("=")[0] in groups))

    try:
        values = composed(*overrides)
    except yaml.MarkedYAMLError as error:  # a key that is there twice, say, or a preset beside it
        raise ConfigError(_no_yaml(error, path)) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{explain_hydra_error(error, chosen)} ({_shown(path)})") from None
    try:
        refuse_old_words(values)
        config = sweep_config.sweep_from_json(values)
        _refuse_swept(config, overrides)
        return config
    except ConfigError as error:
        raise ConfigError(f"{error} ({_shown(path)})") from None


def _refuse_swept(config: SweepConfig, overrides: Sequence[str]) -> None:
    """Raises ConfigError if an override sets what the grid or the space sets anyway."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        for family, parts in (("grid", config.grid), ("space", config.space)):
            for name, part in parts.items():
                if part.path == key:
                    raise ConfigError(
                        f"override {override!r} would do nothing: {family}.{name} sweeps {key}; override "
                        f"{family}.{name}.values instead"
                    )


def compose_yaml(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = hydra_compose(name, list(overrides))
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    finally:
        GlobalHydra.instance().clear()
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_form(overrides: Sequence[str]) -> None:
    for override in overrides:
        if "=" not in override.lstrip("=") and not override.startswith("~"):
            raise ConfigError(f"override {override!r} must be KEY=VALUE, such as run.parameterization=sp")
        key, _, value = override.lstrip("+~").partition("=")
        if key in CHOSEN and value:
            raise ConfigError(f"override {override!r}: {key} has keys of its own; choose it as {CHOSEN[key]}={value}")
        if key.partition(".")[0] == "hydra":
            raise ConfigError(f"override {override!r} would do nothing: hydra only composes; leave it out")


def check_groups(overrides: Sequence[str]) -> None:
    """Raises ConfigError for the choice of something that a run has no choice of."""
    for override in overrides:
        group = override.lstrip("+~").partition("=")[0]
        if group.startswith("run/") and group not in CHOSEN.values():
            known = (choice.partition("/")[2] for choice in CHOSEN.values())
            raise ConfigError(f"override {override!r}: {unknown('choice of a run', group.partition('/')[2], known)}")


# Keys that are whole members, and how a member is chosen.
CHOSEN = {f"run.{key}": f"run/{key}" for key in ("model", "optimizer", "data")}


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _read(path: Path) -> dict[str, Any]:
    """A sweep file's own content; what Hydra would say of it, it says later.

    Raises:
        ConfigError: it is no YAML, or a part of its grid or space has no keys.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_no_yaml(error, path)) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{_shown(path)} cannot be read: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{_shown(path)} must have keys, such as name: and grid:, got {values!r}; {START}")
    defaults = values.get("defaults")
    if not isinstance(defaults, list) or "sweep" not in defaults or "_self_" not in defaults:
        raise ConfigError(
            f"{_shown(path)}: defaults must be a list from `sweep` to `_self_`, got {defaults!r}; {START}"
        )
    for family, such in (("grid", "{values: [32, 64]}"), ("space", "{low: 0.001, high: 0.1, count: 7}")):
        for name, part in (values.get(family) or {}).items() if isinstance(values.get(family) or {}, dict) else ():
            if not isinstance(part, dict):
                raise ConfigError(f"{family}.{name} must have keys, such as {such}, got {part!r} ({_shown(path)})")
    return values


def _no_yaml(error: yaml.MarkedYAMLError, path: Path) -> str:
    place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
    return f"{_shown(path)}{place} is no YAML that can be used: {error.problem}"


# The way out for a file that is no sweep.
START = "`hptransfer init` writes one to start from"


def _chooses_script(values: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether a sweep says by itself that it trains a script."""
    chosen = [value for key, _, value in (word.lstrip("+").partition("=") for word in overrides) if key == "run"]
    if chosen:
        return chosen[-1] == "script"
    defaults = values.get("defaults")
    return isinstance(defaults, list) and {"run": "script"} in defaults


def register_schemas(*, builtin: bool, **others: type[Any]) -> None:
    """Offers every member of every family to Hydra, as the schema that its values are checked by.

    Args:
        builtin: with the families of the builtin trainer, which open PyTorch: seconds that a script's sweep saves.
        others: further top-level schemas, by name.
    """
    store = ConfigStore.instance()
    store.store(name="sweep", node=SweepConfig)
    for name, schema in others.items():
        store.store(name=name, node=schema)
    store.store(group="run", name="script", node=ScriptConfig)
    groups: dict[str, Registry[Any]] = dict(sweep_config.FAMILIES)
    if builtin:
        from hptransfer.training.config import FAMILIES, RunConfig

        store.store(group="run", name="builtin", node=RunConfig)
        groups |= {f"run/{key}": family for key, family in FAMILIES.items()}
    for group, family in groups.items():
        for name in family.names():
            store.store(group=group, name=name, node=family.get(name))


def explain_hydra_error(error: Exception, composed: Callable[[], dict[str, Any]]) -> str:
    """Hydra's message as one line, with its cause, or with the nearest name that there is.

    Args:
        composed: gives the configuration that overrides of single keys are applied to.
    """
    message = " ".join(str(error).partition("\nSee http")[0].split())
    if option := re.search(r"Could not find '([\w/]+)/([^'/]+)'", message):
        group, name = option.groups()
        return unknown(group, name, _options(group))
    if key := re.search(r"Could not override '([^']+)'", message):
        return unknown_key(key.group(1), composed())
    if any(sign in message for sign in UNREADABLE):
        said = message.removeprefix("LexerNoViableAltException: ")
        return (
            f"an override cannot be read: {said}; quote it for the shell, lists as 'KEY=[1,2]' and in them text of "
            "several words once more, as in '[{when: \"width >= 64\", gpus: 2}]'"
        )
    if "appears more than once" in message:
        return f"{message}; give it once, without a +"
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", message):
        return f"{getattr(error, 'full_key', None) or missing.group(1)} must be given"
    if gone := re.search(r"Interpolation key '([^']+)' not found", message):
        place = getattr(error, "full_key", None) or "a value"
        return f"{place} refers to ${{{gone.group(1)}}}, which is not there; quote it as '\\${{...}}' if it is text"
    if inside := re.search(r"raised while composing config: (.+?) full_key: (\S+)", message):
        return _plainly_in_file(*inside.groups())
    if bad := re.search(r"Error merging override (.+)", message):
        reason = str(error.__cause__).partition("\n")[0]
        return f"override {bad.group(1)}: {_plainly(bad.group(1), reason)}"
    return message


# What Hydra's reader says of an override that follows no rule of it.
UNREADABLE = ("no viable alternative at input", "mismatched input", "token recognition", "LexerNoViableAlt")


def _plainly_in_file(reason: str, key: str) -> str:
    """Why OmegaConf refuses what a sweep file says, with the key."""
    if re.match(r"Key '.+' not in '", reason):
        return f"{key}: there is no such key"
    given = re.match(r"Value '(.*?)' (?:of type|is not a valid)", reason)
    told = _plainly(f"{key}={given.group(1) if given else ''}", reason)
    return told if told.startswith(key) else f"{key}: {told}"


def _plainly(override: str, reason: str) -> str:
    """Why OmegaConf refuses a value, and the way out, in the words of a sweep file."""
    key = override.lstrip("'+~ ").partition("=")[0]
    given = override.rstrip("'").partition("=")[2]
    for kind, takes in {"Float": "a number", "Integer": "a whole number, such as 20_000_000"}.items():
        if reason.endswith(f"could not be converted to {kind}"):
            return f"{key} takes {takes}, got {given!r}"
    if "is not a valid bool" in reason:
        return f"{key} takes true or false, got {given!r}"
    if "does not support deletion" in reason:
        return f"{key} is always there; give it another value instead"
    if "is not a subclass" in reason and key.partition(".")[0] in ("grid", "space"):
        # OmegaConf cannot add to a dictionary of dataclasses.
        return "an override cannot add an axis; copy the sweep file and add it there"
    if "Cannot assign" in reason or "is not a subclass" in reason:
        return f"{key} has keys of its own; set one of them, as in {key}.KEY=VALUE"
    if "Cannot merge DictConfig" in reason:
        return f"{key} has keys of its own; set one of them, as in {key}.values=[...]"
    if "ListConfig" in reason:
        return f"{key} takes a list, such as {key}=[1,2]"
    if "is not Optional" in reason:
        return f"{key} must have a value, null is none"
    return reason


# Mappings whose keys are the user's.
FREE = ("launcher.sbatch", "launcher.driver_sbatch", "run.environment", "run.names")


def unknown_key(key: str, tree: Any) -> str:
    """Which part of a dotted key is not there, and what there is in its place."""
    free = next((one for one in FREE if f"{key}.".startswith(f"{one}.") and one in _paths(tree)), None)
    if free is not None:
        name = key.removeprefix(free).removeprefix(".") or "KEY"
        return f"{key}: what is not in {free} yet is added with a +, as in '+{free}.{name}=VALUE'"
    node, place = tree, "the file"
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            told = unknown("key", part, node if isinstance(node, dict) else ())
            found = sorted((path for path in _paths(tree) if path.rpartition(".")[2] == part), key=len)
            elsewhere = " and ".join(CHOSEN.get(path, path) for path in found[:3])
            return f"{key}: {told} (in {place})" + (f"; there is {elsewhere}" if found else "")
        node, place = node[part], part
    return f"{key} cannot be overridden"


def _paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{key}"
        yield from _paths(value, f"{prefix}{key}.")


def _options(group: str) -> list[str]:
    """What can be chosen in a group: registered members and the presets in configs/."""
    store: Any = ConfigStore.instance().repo
    for part in group.split("/"):
        store = store.get(part, {})
    presets = {file.stem for folder in resource_folders("configs") for file in (folder / group).glob("*.yaml")}
    return sorted(presets | {name.removesuffix(".yaml") for name in store if name.endswith(".yaml")})
