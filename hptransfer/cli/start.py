"""The verbs before a sweep: init, import, list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hptransfer.cli.verb import Verb, add_columns_argument, make_console, read_columns, run_folder
from hptransfer.core.errors import EXIT_DONE, ConfigError, unknown

FAMILY_PACKAGES = {
    "estimator": "hptransfer.analysis.optima.estimators",
    "law": "hptransfer.analysis.laws.forms",
    "parameterization": "hptransfer.parameterizations",
    "model": "hptransfer.training.models",
    "optimizer": "hptransfer.training.optimizers",
    "dataset": "hptransfer.training.datasets",
    "sampler": "hptransfer.samplers",
    "launcher": "hptransfer.launchers",
    "runner": "hptransfer.worker.runners",
    "tracker": "hptransfer.trackers",
}


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", nargs="?", help="kind of sweep; without it, all kinds are listed")
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        default=Path("my_sweep.yaml"),
        help="file to write (default: my_sweep.yaml)",
    )


def _init(args: argparse.Namespace) -> int:
    from hptransfer.config.package_data import templates

    kinds = templates()
    if args.kind is None:
        for kind, path in kinds.items():
            print(f"{kind:<10} {_first_comment(path)}")
        return EXIT_DONE
    if args.kind not in kinds:
        raise ConfigError(unknown("kind", args.kind, kinds))
    try:
        with args.file.open("x", encoding="utf-8") as file:
            file.write(kinds[args.kind].read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigError(f"{args.file} exists, and is not overwritten; give another FILE") from None
    except OSError as error:
        raise ConfigError(f"{args.file} cannot be written ({error.strerror}); give another FILE") from None
    print(f"written: {args.file}; edit its command, costs, grid and space, then `hptransfer plan {args.file}`")
    return EXIT_DONE


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder or name of a run; or a sweep file, whose run is created")
    parser.add_argument("table", metavar="TABLE", type=Path, help="table of earlier runs, as CSV, parquet or JSON")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that override the sweep file's, such as name=NEW"
    )
    add_columns_argument(parser)
    parser.add_argument("--loss", metavar="NAME", default="loss", help="column of the final loss (default: loss)")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="accept what cannot be checked: that the runs had this sweep's settings, or a folder of someone else",
    )


def _import(args: argparse.Namespace) -> int:
    from hptransfer.config import sweep as sweep_config
    from hptransfer.config.compose import compose
    from hptransfer.core.permissions import require_trust
    from hptransfer.import_runs import import_rows, read_rows
    from hptransfer.planning.plan import make_plan
    from hptransfer.session.session import session

    columns = read_columns(args.columns)
    is_file = Path(args.run).suffix in (".yaml", ".yml")
    if args.overrides and not is_file:
        raise ConfigError(
            f"{args.overrides[0]}: a run has its settings already; give its sweep file to import into a new run"
        )
    config = compose(args.run, args.overrides) if is_file else sweep_config.load_sweep(run_folder(args.run))
    require_trust(config.folder.path, trusted=args.trust)
    plan = make_plan(config)
    rows = read_rows(plan, args.table, columns=columns, loss=args.loss, trust=args.trust)
    with session(plan, make_console()) as open_session:
        imported = import_rows(open_session.folder, rows)
    print(f"{imported.summary()}; `hptransfer sweep` trains what is missing")
    return EXIT_DONE


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "family", nargs="?", metavar="FAMILY", help=f"sweep, {', '.join(FAMILY_PACKAGES)} (default: all)"
    )


def _list(args: argparse.Namespace) -> int:
    from hptransfer.core.registry import Registry

    families = ["sweep", *FAMILY_PACKAGES]
    if args.family is not None and args.family not in families:
        raise ConfigError(unknown("family", args.family, families))
    for family in [args.family] if args.family else families:
        print(f"{family}:")
        if family == "sweep":
            members = {path.stem: _first_comment(path) for path in _sweep_files()}
        else:
            registry: Registry[Any] = Registry(family, FAMILY_PACKAGES[family])
            members = {name: registry.summary(name) for name in registry.names()}
        for name, summary in members.items():
            print(f"  {name:<14} {summary}")
    return EXIT_DONE


def _sweep_files() -> list[Path]:
    from hptransfer.config.package_data import resource_folders

    return sorted(path for folder in resource_folders("sweeps") for path in folder.glob("*.yaml"))


def _first_comment(path: Path) -> str:
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    return first_line.lstrip("# ") if first_line.startswith("#") else ""


INIT_VERB = Verb("write a commented sweep file to start from", _init_arguments, _init)
IMPORT_VERB = Verb("import earlier runs as finished trials of a run", _import_arguments, _import)
LIST_VERB = Verb("list sweep files, models, optimizers and all other members", _list_arguments, _list)
