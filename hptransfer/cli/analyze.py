"""The verb `analyze`, for a run folder or a table of runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from hptransfer.cli.verb import Verb, add_columns_argument, read_columns, run_folder
from hptransfer.core.errors import EXIT_DONE, ConfigError
from hptransfer.core.records import Number


def _analyze_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder or name of a run; or give --table or --mlflow")
    parser.add_argument("--table", type=Path, metavar="FILE", help="table of runs, as CSV, parquet or JSON")
    parser.add_argument("--mlflow", metavar="URI", help="tracking URI of MLflow runs; needs --experiment")
    parser.add_argument("--experiment", metavar="NAME", help="name of the MLflow experiment")
    add_columns_argument(parser)
    parser.add_argument("--scale", metavar="A,B", help="columns of the scale, such as params,tokens")
    parser.add_argument("--tune", metavar="A,B", help="columns of the tuned hyperparameters")
    parser.add_argument("--loss", metavar="NAME", help="column of the loss (default: loss)")
    parser.add_argument(
        "--goal", metavar="GOAL", help="minimize or maximize the loss; asked for where a name suggests it"
    )
    parser.add_argument("--unit", metavar="NAME", help="unit of the loss, such as nats")
    parser.add_argument("--target", nargs="+", metavar="AXIS=VALUE", help="scale to predict for")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="table of several scales to predict for")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results of a table")
    parser.add_argument("--estimator", metavar="NAME", help="estimator of the optima; see `hptransfer list estimator`")
    parser.add_argument("--laws", metavar="A,B", help="forms of law to average over; see `hptransfer list law`")
    parser.add_argument(
        "--no-prior",
        action="store_true",
        help="use uninformative priors instead of priors inferred from column names",
    )
    parser.add_argument("--against", metavar="RUN2", help="another run, to compare with on the page")
    parser.add_argument(
        "--format", metavar="A,B", default="", help="further files: svg, png for figures; csv, json for tables"
    )


def _analyze(args: argparse.Namespace) -> int:
    from hptransfer.analysis.pipeline import AnalysisOptions, analyze_run, analyze_source, target_axes
    from hptransfer.analysis.tables.sources import TableSource

    if sum(source is not None for source in (args.run, args.table, args.mlflow)) != 1:
        raise ConfigError("analyze takes one of RUN, --table FILE and --mlflow URI")
    if args.run is not None:
        _refuse(args, ("experiment", "columns", "scale", "tune", "loss", "goal", "unit", "out"), "a run")
    else:
        _refuse(args, ("against",) if args.mlflow else ("against", "experiment"), "a table")
    if args.target is not None and args.targets is not None:
        raise ConfigError("analyze takes one of --target AXIS=VALUE and --targets FILE; put the scale into the file")
    options = AnalysisOptions.of(args.estimator, args.laws, args.format, prior=not args.no_prior)
    against = run_folder(args.against) if args.against else None
    if args.run is not None:
        folder = run_folder(args.run)
        targets = args.targets or _target(args, target_axes(folder) if args.target else ())
        analysis, out = analyze_run(folder, targets=targets, options=options, against=against), folder.path
    else:
        for option in ("scale", "tune", "out", *(["experiment"] if args.mlflow else [])):
            if getattr(args, option) is None:
                raise ConfigError(f"analyze of a table needs --{option}; see `hptransfer analyze --help`")
        source = TableSource(args.table, args.mlflow, args.experiment, read_columns(args.columns))
        scales, tuned = (tuple(name.strip() for name in names.split(",")) for names in (args.scale, args.tune))
        loss, out = args.loss or "loss", args.out
        targets = args.targets or _target(args, scales)
        if missing := [axis for axis in scales if targets and not isinstance(targets, Path) and axis not in targets]:
            raise ConfigError(f"--target must name every column of --scale; add {missing[0]}=NUMBER")
        analysis = analyze_source(
            source,
            scales=scales,
            tuned=tuned,
            loss=loss,
            targets=targets,
            out=out,
            goal=args.goal,
            unit=args.unit,
            options=options,
        )
        if targets is None:
            print(f"no target was given: the largest scale takes its place; --target {scales[0]}=NUMBER names another")
    print(analysis.summary())
    print(f"report: {out / 'report.html'}")
    return EXIT_DONE


def _target(args: argparse.Namespace, axes: Sequence[str]) -> Mapping[str, Number] | None:
    """Return the values of --target; None without them."""
    if args.target is None:
        return None
    from hptransfer.config.sweep import read_axes

    values = read_axes(args.target, axes, "--target ")
    return {axis: int(value) if value % 1 == 0 else value for axis, value in values.items()}


def _refuse(args: argparse.Namespace, options: Sequence[str], kind: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        ConfigError: one of the options was given.
    """
    for option in options:
        if getattr(args, option) not in (None, []):
            place = "; its results are written into its folder" if option == "out" else ""
            raise ConfigError(f"--{option} is not for an analysis of {kind}{place}; see `hptransfer analyze --help`")


ANALYZE_VERB = Verb("fit the laws, predict for the target, write the report", _analyze_arguments, _analyze)
