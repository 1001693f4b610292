"""analyze: a law fitted to a run, or to a table of runs made anywhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hptransfer.cli.verb import Verb, run_folder
from hptransfer.core.errors import EXIT_DONE, ConfigError


def _analyze_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run's folder or name; or give --table or --mlflow")
    parser.add_argument("--table", type=Path, metavar="FILE", help="runs made anywhere, as CSV or parquet")
    parser.add_argument("--mlflow", metavar="URI", help="runs of an MLflow experiment, with --experiment")
    parser.add_argument("--experiment", metavar="NAME", help="the experiment's name")
    parser.add_argument("--columns", metavar="A=B,...", help="what the table calls a column: learning_rate=config/lr")
    parser.add_argument("--scale", metavar="A,B", help="columns that say how large a run is")
    parser.add_argument("--tune", metavar="A,B", help="columns that were tuned")
    parser.add_argument("--loss", metavar="NAME", help="column with the loss, in nats; without it `loss`")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="CSV of the scales to predict for")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results of a table go")
    parser.add_argument("--estimator", metavar="NAME", help="how optima are found; `hptransfer list estimator`")
    parser.add_argument("--laws", metavar="A,B", help="forms of law that are weighed; `hptransfer list law`")
    parser.add_argument("--no-prior", action="store_true", help="know nothing of a column by its name")
    parser.add_argument("--against", metavar="RUN2", help="another run, compared on the page")
    parser.add_argument(
        "--format", metavar="A,B", default="", help="figures beside the page: svg, png; tables: csv, json"
    )


def _analyze(args: argparse.Namespace) -> int:
    from hptransfer.analysis.pipeline import AnalysisOptions, analyze_run, analyze_source
    from hptransfer.analysis.tables.sources import TableSource

    if sum(given is not None for given in (args.run, args.table, args.mlflow)) != 1:
        raise ConfigError("analyze takes one of RUN, --table FILE and --mlflow URI")
    if args.run is not None:
        _refuse(args, ("experiment", "columns", "scale", "tune", "loss", "out"), "a run")
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
        scales, tuned = (tuple(name.strip() for name in given.split(",")) for given in (args.scale, args.tune))
        loss, out = args.loss or "loss", args.out
        analysis = analyze_source(
            source, scales=scales, tuned=tuned, loss=loss, targets=args.targets, out=out, options=options
        )
    print(analysis.summary())
    print(f"report: {out / 'report.html'}")
    return EXIT_DONE


def _refuse(args: argparse.Namespace, options: Sequence[str], what: str) -> None:
    """
    Raises:
        ConfigError: one of the options was given, where it would do nothing.
    """
    for option in options:
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option} is not for an analysis of {what}; see `hptransfer analyze --help`")


ANALYZE = Verb("fit the law, predict for the target, write the report", _analyze_arguments, _analyze)
