"""Composition of a sweep file and overrides into a checked configuration.

Only this module imports Hydra.

Hydra composes plain values from files, presets and members: no types, no main decorator, no multirun, no instantiation
by target. Overrides of single keys are applied afterwards (overrides.py), and types are checked last (loader.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from omegaconf.resolvers import oc

from hptransfer.config import sweep as sweep_config
from hptransfer.config.interpolation import check_size, value_at
from hptransfer.config.overrides import Setting, apply
from hptransfer.config.package_data import resource_folders
from hptransfer.config.renamed import refuse_old_word, refuse_old_words
from hptransfer.config.secret_values import EnvironmentReader, refuse_secret_override, shown_override
from hptransfer.config.sweep import SWEEP_MEMBERS, AxisConfig, SweepConfig, TunedConfig
from hptransfer.config.yaml_files import LOADER, Place, plain_texts, read_bounded, refuse_misread
from hptransfer.core.errors import ConfigError, unknown
from hptransfer.core.loader import (
    CHOSEN,
    REQUIRED,
    RefusedValueError,
    UnknownKeyError,
    converted,
    defaults_of,
    fields_of,
    load,
    open_mappings,
    unknown_key,
)
from hptransfer.core.registry import Registry
from hptransfer.worker.runners import RUNNERS, RunSchema

T = TypeVar("T")
LONGEST_OVERRIDE = 5_000
"""Largest number of characters of an override."""
# Keys of a sweep file that hold keys of their own.
MAPPINGS = ("run", "sampler", "launcher", "tracker", "budget", "halving", "retry", "hooks")
# A value of letters, digits and signs without a meaning, with a letter that Hydra cannot read.
OTHER_LETTERS = re.compile(r"(?=.*[^\x00-\x7f])[\w ./:+-]+")
# The way out for a file that is not a sweep.
START = "`hptransfer init` writes one to start from"


def sweep_names() -> list[str]:
    """Return the names of sweeps that need no path."""
    return sorted({path.stem for folder in resource_folders("sweeps") for path in folder.glob("*.yaml")})


def find_sweep(sweep: str) -> Path:
    """Return the file of a sweep given by name or by path.

    Raises:
        ConfigError: the file does not exist.
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
    """Return the sweep with its overrides applied, checked without its runs.

    Raises:
        ConfigError: an unknown sweep, key or value, or one that breaks a rule.
    """
    path = find_sweep(sweep)
    check_form(overrides)
    content = _read(path)
    _register(SweepConfig, "sweep", _chosen_runners(content, overrides))
    check_groups(overrides)
    try:
        _refuse_second_choice(content, overrides)
        choices, settings = _parted(overrides, path.parent, SweepConfig)
        tree, written = _composed(path.parent, path.stem, choices)
        _fill(tree)
        for setting in settings:
            _refuse_old_override(setting)
            _refuse_new_axis(tree, setting)
            apply(tree, setting, _open_keys(tree))
        if tree.get("variables"):
            raise RefusedValueError("variables", "is written by the tool itself; leave it out")
        values, digests = _resolved(_converted(tree, _with_settings(written, settings)))
        values["variables"] = digests
        refuse_old_words(values)
        with _naming_overrides(settings, tree):
            load(SweepConfig, values, members=SWEEP_MEMBERS)
            values["run"] = _loaded_run(values.get("run"))
            config = sweep_config.sweep_from_json(sweep_config.placed(values))
        _refuse_swept(config, overrides)
        return config
    except ConfigError as error:
        raise ConfigError(f"{error} ({_shown(path)})") from None


def compose_schema(schema: type[T], name: str, choices: Sequence[str], overrides: Sequence[str]) -> T:
    """Return a checked configuration that has no file.

    It is a schema with a builtin run, and overrides of its keys.

    Args:
        name: of the schema among Hydra's configurations.
        choices: members of groups, such as run/model=mlp.

    Raises:
        ConfigError: an unknown key or value.
    """
    _register(schema, name, ["builtin"])
    _, settings = _parted(overrides, Path(__file__).parent, schema)
    groups = ["+run=builtin", *(f"+{choice}" for choice in choices)]
    tree, _ = _composed(Path(__file__).parent, name, groups)
    for setting in settings:
        apply(tree, setting, open_mappings(schema))
    values, _ = _resolved(tree)
    with _naming_overrides(settings, tree):
        config = load(schema, values)
        config.run = _loaded_run(values["run"])  # type: ignore[attr-defined]
    return config


def check_form(overrides: Sequence[str]) -> None:
    """Raise ConfigError unless each override is KEY=VALUE of a settable key.

    A secret is refused before any message can repeat it.
    """
    for override in overrides:
        if len(override) > LONGEST_OVERRIDE:
            raise ConfigError(
                f"override {override.partition('=')[0]!r} is longer than {LONGEST_OVERRIDE:,} characters; write it in "
                "the sweep file"
            )
        refuse_secret_override(override)
        if "=" not in override.lstrip("=") and not override.startswith("~"):
            raise ConfigError(f"override {override!r} must be KEY=VALUE, such as run.parameterization=sp")
        key, _, value = override.lstrip("+~").partition("=")
        if key in CHOSEN and value:
            raise ConfigError(f"override {override!r}: {key} has keys of its own; choose it as {CHOSEN[key]}={value}")
        if key.partition(".")[0] == "hydra":
            raise ConfigError(f"override {override!r} would do nothing: hydra only composes; leave it out")


def check_groups(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a group that a run does not have."""
    for override in overrides:
        group = override.lstrip("+~").partition("=")[0]
        if group.startswith("run/") and group not in CHOSEN.values():
            known = (choice.partition("/")[2] for choice in CHOSEN.values())
            raise ConfigError(f"override {override!r}: {unknown('choice of a run', group.partition('/')[2], known)}")


# --- Hydra ----------------------------------------------------------------------------------------------------


def _register(schema: type[Any], name: str, runners: Sequence[str]) -> None:
    """Offer the defaults of all families' members to Hydra as plain values.

    Args:
        runners: whose runs are offered, with their own families. The builtin trainer's import PyTorch: seconds that the
            sweep of a script saves.
    """
    _store(None, name, schema)
    groups: dict[str, Registry[Any]] = dict(sweep_config.SWEEP_FAMILIES)
    for runner in runners:
        run = RUNNERS.get(runner).schema()
        if run is not None:
            _store("run", runner, run.config)
            groups |= {f"run/{key}": family for key, family in run.families.items()}
    for group, family in groups.items():
        for member in family.names():
            _store(group, member, family.get(member))


_STORED: dict[tuple[str | None, str], type[Any]] = {}


def _store(group: str | None, name: str, schema: type[Any]) -> None:
    """Offer one schema's defaults to Hydra, once per process."""
    if _STORED.get((group, name)) is not schema:
        ConfigStore.instance().store(group=group, name=name, node=defaults_of(schema))
        _STORED[group, name] = schema


def _parted(overrides: Sequence[str], folder: Path, schema: type[Any]) -> tuple[list[str], list[Setting]]:
    """Part overrides into choices of groups and settings of keys.

    Hydra applies the choices.

    Args:
        folder: of the sweep file, whose subfolders are groups too.
        schema: whose plain keys are no groups, whatever folders exist.
    """
    groups = {group for group, _ in _STORED if group}
    folders = [folder, *resource_folders("configs")]

    def chooses(key: str, value: Any) -> bool:
        """Test if an override chooses a preset of a folder.

        Its value is a name, and a key of the schema has keys of its own.
        """
        kind = fields_of(schema)[key].kind if key in fields_of(schema) else dict
        has_keys = dataclasses.is_dataclass(kind) or kind is Any or (get_origin(kind) or kind) is dict
        return isinstance(value, str) and has_keys and any((place / key).is_dir() for place in folders if key)

    choices, settings = [], []
    for override in overrides:
        parsed = _parsed(override)
        key = parsed.key_or_group
        if parsed.is_sweep_override():
            way_out = "choose one" if "/" in key or key in groups else f"write a list, as in '{key}=[1,2]'"
            raise ConfigError(f"override {shown_override(override)!r} has several values; {way_out}")
        if "/" in key or key in groups or chooses(key, parsed.value()):
            choices.append(override)
        else:
            flags = {"adds": parsed.is_add(), "replaces": parsed.is_force_add(), "deletes": parsed.is_delete()}
            settings.append(Setting(shown_override(override), key, parsed.value(), **flags))
    return choices, settings


def _parsed(override: str) -> Override:
    """Return an override as Hydra reads it.

    Hydra's own notation has letters of English alone; a word of others is text.

    Raises:
        ConfigError: it cannot be read.
    """
    key, _, value = override.partition("=")
    quoted = f'{key}="{value}"' if OTHER_LETTERS.fullmatch(value) else override
    try:
        return OverridesParser.create().parse_override(quoted)
    except HydraException as error:
        reason = " ".join(str(error).partition("\nSee http")[0].split())
    except RecursionError:
        reason = "nested too deep"
    shown = shown_override(override)
    raise ConfigError(
        f"an override cannot be read: {shown} ({reason if shown == override else 'it has a secret'}); quote it "
        "for the shell, lists as 'KEY=[1,2]' and in them text of several words once more, as in "
        "'[{when: \"width >= 64\", gpus: 2}]'"
    )


def _composed(folder: Path, name: str, choices: Sequence[str]) -> tuple[dict[str, Any], dict[Place, str]]:
    """Return the plain values of a configuration and its chosen members.

    What is written for the unquoted ones follows, by their places.
    """
    search = ",".join(f"file://{place}" for place in resource_folders("configs"))
    written: dict[Place, str] = {}
    Plugins.instance()  # registers Hydra's own reader of files
    SourcesRegistry.instance().types["file"] = _checked_files(written)
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = hydra_compose(name, [f"hydra.searchpath=[{search}]", *choices])
        values = OmegaConf.to_container(config, resolve=False)
    except yaml.MarkedYAMLError as error:  # a key that is given twice, say, or a damaged preset
        line = f"line {error.problem_mark.line + 1} " if error.problem_mark else "it "
        raise ConfigError(f"{line}is not YAML that can be used: {error.problem}") from None
    except MissingConfigException as error:
        group, _, member = (error.missing_cfg_file or "").rpartition("/")
        raise ConfigError(unknown(group or "configuration", member, _options(group))) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        reason = " ".join(str(error).partition("\nSee http")[0].split())
        raise ConfigError(reason) from None
    finally:
        GlobalHydra.instance().clear()
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}, written


def _checked_files(written: dict[Place, str]) -> type[FileConfigSource]:
    """Return Hydra's reader of files, which checks each of them first.

    Args:
        written: gets what is written for each unquoted value.
    """

    class CheckedFiles(FileConfigSource):
        def is_config(self, config_path: str) -> bool:
            """Test if the file exists; sweep.yaml never hides the schema."""
            return config_path != "sweep" and bool(super().is_config(config_path))

        def load_config(self, config_path: str) -> ConfigResult:
            path = Path(self.path) / self._normalize_file_name(config_path)
            text = _checked_text(path)
            result = super().load_config(config_path)
            package = result.header.get("package") or config_path.rpartition("/")[0].replace("/", ".")
            place = tuple(package.split(".")) if package not in ("", "_global_") else ()
            for key, value in plain_texts(text, place).items():
                written.setdefault(key, value)
            return result

    return CheckedFiles


def _checked_text(path: Path) -> str:
    """Return the text of a YAML file that can be used.

    Raises:
        ConfigError: it is too large, not YAML, or has a value that YAML reads as something else.
    """
    with _reading_yaml(path):
        text = read_bounded(path)
        refuse_misread(text)
    return text


@contextmanager
def _reading_yaml(path: Path) -> Iterator[None]:
    """Convert errors about a YAML file to a ConfigError of one line."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{_shown(path)}{line} is not YAML that can be used: {error.problem}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{_shown(path)} cannot be read: {str(error).partition(chr(10))[0]}") from None
    except ConfigError as error:
        raise ConfigError(f"{_shown(path)}: {error}") from None


def _resolved(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values with every ${...} replaced, except references to secrets.

    The digests of the variables of the environment that were read come with them, by name.
    """
    try:
        check_size(tree)
        reader = EnvironmentReader(tree)

        def read(name: str, *default: Any, _node_: Any) -> Any:
            return reader.read(_node_._get_full_key(None), name, *default)

        OmegaConf.register_new_resolver("oc.env", read, replace=True)
        values = OmegaConf.to_container(OmegaConf.create(dict(tree)), resolve=True)
    except InterpolationKeyError as error:
        key = str(error.full_key)
        text = str(_raw(tree, key))
        absent = [name for name in re.findall(r"\$\{([^{}]+)\}", text) if _raw(tree, name) is None]
        names = ", ".join(f"${{{name}}}" for name in absent) or text
        raise ConfigError(
            f"{key} refers to {names}, which is not there; quote it as '\\${{...}}' if it is text"
        ) from None
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0].removeprefix("ConfigError raised while resolving interpolation: ")
        raise ConfigError(f"{error.full_key or 'a value'}: {reason}") from None
    except RecursionError:
        raise ConfigError("its values are nested, or refer to each other by ${...}, too deep; write them out") from None
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    assert isinstance(values, dict)
    resolved = {str(key): value for key, value in values.items()}
    runner = _raw(resolved, "run.runner")
    reader.check(resolved, RUNNERS.get(runner).secret_places if runner in RUNNERS.names() else ())
    return resolved, reader.digests


def _raw(tree: Any, key: str) -> Any:
    """Return the value at a dotted key; None if there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _options(group: str) -> list[str]:
    """Return the choices of a group: registered members and presets."""
    presets = {file.stem for folder in resource_folders("configs") for file in (folder / group).glob("*.yaml")}
    return sorted(presets | {name for stored, name in _STORED if (stored or "") == group})


# --- sweeps ---------------------------------------------------------------------------------------------------


def _fill(tree: dict[str, Any]) -> None:
    """Add the defaults of axes and tuned hyperparameters.

    Overrides and ${...} find their keys then.
    """
    for family, schema in (("grid", AxisConfig), ("space", TunedConfig)):
        parts = tree.get(family)
        if isinstance(parts, dict):
            for name, part in parts.items():
                parts[name] = {**defaults_of(schema), **part} if isinstance(part, dict) else part


def _refuse_new_axis(tree: Mapping[str, Any], setting: Setting) -> None:
    family, _, rest = setting.key.partition(".")
    name = rest.partition(".")[0]
    if family in ("grid", "space") and (setting.adds or setting.replaces) and name not in (tree.get(family) or {}):
        raise ConfigError("an override cannot add an axis; copy the sweep file and add it there")


def _open_keys(tree: Mapping[str, Any]) -> set[str]:
    """Return the dotted keys of all mappings that users add keys to."""
    keys = open_mappings(SweepConfig)
    for key, family in sweep_config.SWEEP_FAMILIES.items():
        name = _raw(tree, f"{key}.name")
        if name in family.names():
            keys |= open_mappings(family.get(name), f"{key}.")
    if run := _run_schema(tree.get("run")):
        keys |= open_mappings(run.config, "run.")
    return keys


def _converted(tree: dict[str, Any], written: Mapping[Place, str]) -> dict[str, Any]:
    """Return the tree with numbers and texts as their fields hold them.

    A field of text holds what is written, not what YAML makes of it.
    """
    values: dict[str, Any] = converted(SweepConfig, tree, members=SWEEP_MEMBERS)
    if run := _run_schema(tree.get("run")):
        values["run"] = converted(run.config, values["run"], "run", run.members)
    for place, text in written.items():
        if isinstance(value_at(values, place), str) and not isinstance(value_at(tree, place), str):
            holder = value_at(values, place[:-1])
            holder[int(place[-1]) if isinstance(holder, list) else place[-1]] = text
    return values


def _with_settings(written: Mapping[Place, str], settings: Sequence[Setting]) -> dict[Place, str]:
    """Return what is written for unquoted values, in files or in overrides."""
    texts = dict(written)
    for setting in settings:
        place = tuple(setting.key.split("."))
        texts = {key: text for key, text in texts.items() if key[: len(place)] != place}
        with suppress(yaml.YAMLError):  # Hydra's notation, which is nearly YAML's, is checked already
            texts |= plain_texts(setting.value_text, place)
    return texts


def _run_schema(run: Any) -> RunSchema | None:
    """Return the schema of a run; None if its runner has none."""
    runner = run.get("runner") if isinstance(run, Mapping) else None
    return RUNNERS.get(runner).schema() if runner in RUNNERS.names() else None


def _loaded_run(run: Any) -> Any:
    """Return a run's plain values with checked keys and types."""
    if run in (None, REQUIRED):
        raise RefusedValueError("run", f"must be given; choose {' or '.join(RUNNERS.names())} under defaults")
    if not isinstance(run, Mapping):
        raise RefusedValueError("run", "has keys of its own; set one of them, as in run.KEY=VALUE")
    RUNNERS.get(str(run.get("runner")))  # raises ConfigError for an unknown one
    schema = _run_schema(run)
    return dataclasses.asdict(load(schema.config, run, "run", schema.members)) if schema else run


def _refuse_old_override(setting: Setting) -> None:
    """Raise ConfigError for an override in words of version 0.1."""
    try:
        refuse_old_word(setting.key, setting.value)
    except ConfigError as error:
        raise ConfigError(f"override {setting.text}: {error}") from None


@contextmanager
def _naming_overrides(settings: Sequence[Setting], tree: Mapping[str, Any]) -> Iterator[None]:
    """Name the override that a refused value came from.

    The message about an unknown key names the places that have such a key.
    """
    try:
        yield
    except UnknownKeyError as error:
        raise ConfigError(unknown_key(error.place, error.known, tree)) from None
    except RefusedValueError as error:
        for setting in reversed(settings):
            if error.place == setting.key and not isinstance(setting.value, Mapping | list):
                given = f", got {setting.value_text!r}" if error.shows_value else ""
                raise ConfigError(f"override {setting.text}: {error.place} {error.rule}{given}") from None
            if f"{error.place}.".startswith((f"{setting.key}.", f"{setting.key}[")):
                raise ConfigError(f"override {setting.text}: {error}") from None
        raise


def _refuse_swept(config: SweepConfig, overrides: Sequence[str]) -> None:
    """Raise ConfigError if an override sets a key that is swept."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        for family, parts in (("grid", config.grid), ("space", config.space)):
            for name, part in parts.items():
                if part.path == key:
                    raise ConfigError(
                        f"override {override!r} would do nothing: {family}.{name} sweeps {key}; override "
                        f"{family}.{name}.values instead"
                    )


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _read(path: Path) -> dict[str, Any]:
    """Return a sweep file's own content.

    Raises:
        ConfigError: the file is not YAML, or a part of its grid or space has no keys.
    """
    with _reading_yaml(path):
        text = read_bounded(path)
        refuse_misread(text)
        values = yaml.load(text, Loader=LOADER)
    if not isinstance(values, dict):
        raise ConfigError(f"{_shown(path)} must have keys, such as name: and grid:, got {values!r}; {START}")
    defaults = values.get("defaults")
    if not isinstance(defaults, list) or "sweep" not in defaults or "_self_" not in defaults:
        raise ConfigError(
            f"{_shown(path)}: defaults must be a list from `sweep` to `_self_`, got {defaults!r}; {START}"
        )
    for key in (*MAPPINGS, *open_mappings(SweepConfig)):
        if isinstance(values.get(key), list):
            raise ConfigError(f"{key} must have keys, got {values[key]!r} ({_shown(path)})")
    for family, example in (("grid", "{values: [32, 64]}"), ("space", "{low: 0.001, high: 0.1, count: 7}")):
        for name, part in (values.get(family) or {}).items() if isinstance(values.get(family) or {}, dict) else ():
            if not isinstance(part, dict):
                raise ConfigError(f"{family}.{name} must have keys, such as {example}, got {part!r} ({_shown(path)})")
    return values


def _refuse_second_choice(values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise ConfigError if an override adds a choice of the sweep file."""
    chosen = {key for default in values["defaults"] if isinstance(default, dict) for key in default}
    for override in overrides:
        group = override.removeprefix("+").partition("=")[0]
        if override.startswith("+") and group in chosen:
            raise ConfigError(f"override {override!r}: the sweep file chooses {group}; give it once, without a +")


def _chosen_runners(values: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Return the runner that a sweep chooses by name, otherwise all."""
    chosen = [default["run"] for default in values["defaults"] if isinstance(default, dict) and "run" in default]
    chosen += [value for key, _, value in (word.lstrip("+").partition("=") for word in overrides) if key == "run"]
    names = RUNNERS.names()
    return chosen[-1:] if chosen and chosen[-1] in names else names
