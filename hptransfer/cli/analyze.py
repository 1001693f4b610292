"""The verb `analyze`, for a run folder or a table of runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hptransfer.cli.verb import Verb, run_folder
from hptransfer.core.errors import EXIT_DONE, ConfigError


def _analyze_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder or name of a run; or give --table or --mlflow")
    parser.add_argument("--table", type=Path, metavar="FILE", help="table of runs, as CSV, parquet or JSON")
    parser.add_argument("--mlflow", metavar="URI", help="tracking URI of MLflow runs; needs --experiment")
    parser.add_argument("--experiment", metavar="NAME", help="name of the MLflow experiment")
    parser.add_argument("--columns", metavar="A=B,...", help="names of columns in the table: learning_rate=config/lr")
    parser.add_argument("--scale", metavar="A,B", help="columns of the scale, such as params,tokens")
    parser.add_argument("--tune", metavar="A,B", help="columns of the tuned hyperparameters")
    parser.add_argument("--loss", metavar="NAME", help="column of the loss (default: loss)")
    parser.add_argument(
        "--goal", metavar="GOAL", help="minimize or maximize the loss; asked for where a name suggests it"
    )
    parser.add_argument("--unit", metavar="NAME", help="unit of the loss, such as nats")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="table of the scales to predict for")
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
    from hptransfer.analysis.pipeline import AnalysisOptions, analyze_run, analyze_source
    from hptransfer.analysis.tables.sources import TableSource

    if sum(source is not None for source in (args.run, args.table, args.mlflow)) != 1:
        raise ConfigError("analyze takes one of RUN, --table FILE and --mlflow URI")
    if args.run is not None:
        _refuse(args, ("experiment", "columns", "scale", "tune", "loss", "goal", "unit", "out"), "a run")
    else:
        _refuse(args, ("against",) if args.mlflow else ("against", "experiment"), "a table")
    options = AnalysisOptions.of(args.estimator, args.laws, args.format, prior=not args.no_prior)
    against = run_folder(args.against) if args.against else None
    if args.run is not None:
        folder = run_folder(args.run)
        analysis, out = analyze_run(folder, targets=args.targets, options=options, against=against), folder.path
    else:
        for option in ("scale", "tune", "targets", "out", *(["experiment"] if args.mlflow else [])):
            if getattr(args, option) is None:
                raise ConfigError(f"analyze of a table needs --{option}; see `hptransfer analyze --help`")
        source = TableSource.of(args.table, args.mlflow, args.experiment, args.columns)
        scales, tuned = (tuple(name.strip() for name in names.split(",")) for names in (args.scale, args.tune))
        loss, out = args.loss or "loss", args.out
        analysis = analyze_source(
            source,
            scales=scales,
            tuned=tuned,
            loss=loss,
            targets=args.targets,
            out=out,
            goal=args.goal,
            unit=args.unit,
            options=options,
        )
    print(analysis.summary())
    print(f"report: {out / 'report.html'}")
    return EXIT_DONE


def _refuse(args: argparse.Namespace, options: Sequence[str], kind: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        ConfigError: one of the options was given.
    """
    for option in options:
        if getattr(args, option) is not None:
            place = "; its results are written into its folder" if option == "out" else ""
            raise ConfigError(f"--{option} is not for an analysis of {kind}{place}; see `hptransfer analyze --help`")


ANALYZE_VERB = Verb("fit the laws, predict for the target, write the report", _analyze_arguments, _analyze)
