"""The command line: one verb a stage. Each verb imports what it needs when it is called.

Help, list, status, logs, export and analyze never import PyTorch; help and list nothing heavy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from hptransfer import __version__
from hptransfer.core.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUDGET_SPENT,
    EXIT_BUG,
    EXIT_CHECK_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TRIALS_FAILED,
    ConfigError,
    FitError,
    HptransferError,
    unknown,
)
from hptransfer.core.redact import redacted

if TYPE_CHECKING:
    from rich.console import Console

    from hptransfer.core.files import RunFolder
    from hptransfer.sweep.driver import Report
    from hptransfer.sweep.plan import Plan

EPILOG = """\
SWEEP is a name in sweeps/ or a path to a YAML file; overrides are KEY=VALUE, such as
run.parameterization=sp name=quickstart-sp. RUN is a run's folder, or its name under runs/.

exit codes: 0 done; 1 a bug, or a check that failed; 2 bad input, nothing was written; 3 done, but trials failed;
4 the budget was spent first; 5 stopped by the machine or another driver; 6 no law could be
fitted; 75 a job's worker was asked to stop; 130 interrupted. After 3, 4, 5 and 130 the same
command goes on where it stopped; a check starts again."""

FAMILIES = {
    "estimator": "hptransfer.analysis.estimators",
    "law": "hptransfer.analysis.laws",
    "parameterization": "hptransfer.parameterizations",
    "model": "hptransfer.training.models",
    "optimizer": "hptransfer.training.optimizers",
    "dataset": "hptransfer.training.datasets",
    "sampler": "hptransfer.sweep.samplers",
    "launcher": "hptransfer.sweep.launchers",
    "runner": "hptransfer.sweep.runners",
    "tracker": "hptransfer.sweep.trackers",
}


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    interrupted: str = "finished trials are kept, the same command goes on"
    """What is left of one that was interrupted."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `hptransfer` command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run(arguments)
    except HptransferError as error:
        print(f"hptransfer: {redacted(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print(f"hptransfer: interrupted; {_left_of(arguments)}", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output (head, say) has had enough
        code = EXIT_DONE
    except Exception:  # a bug: its traceback, as Python would show it, but without passwords
        print(redacted(traceback.format_exc()), file=sys.stderr, end="")
        code = EXIT_BUG
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """Reports as all else does: one line, with the nearest option and the way out."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (-\S+)", message):
            message = unknown("option", match.group(1).partition("=")[0], self._option_string_actions)
        message = message.replace(", KEY=VALUE", "").replace(", AXIS=VALUE", "")  # which may be left out
        raise ConfigError(f"{self.prog.partition(' ')[2]}: {message}; see `{self.prog} --help`")


def _left_of(arguments: list[str]) -> str:
    """What an interrupted verb leaves behind."""
    sweep = VERBS["sweep"]
    return VERBS.get(arguments[0], sweep).interrupted if arguments else sweep.interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return EXIT_DONE if arguments else EXIT_BAD_INPUT
    if arguments[0] == "--version":
        print(f"hptransfer {__version__}")
        return EXIT_DONE
    name, *rest = arguments
    if name not in VERBS:
        raise ConfigError(unknown("verb", name, VERBS))
    parser = _Parser(prog=f"hptransfer {name}", description=VERBS[name].summary, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    VERBS[name].arguments(parser)
    return VERBS[name].run(parser.parse_intermixed_args(rest))


def _help() -> str:
    lines = ["usage: hptransfer VERB [SWEEP | RUN] [overrides] [options]", ""]
    lines += [f"  {name:<11}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "`hptransfer VERB --help` lists a verb's options.", "", EPILOG])


def _console() -> Console:
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1
            raise BrokenPipeError

    return Terminal() if sys.stdout.isatty() else Terminal(width=160)


# --- plan, sweep, verify: what needs a sweep's configuration --------------------------------------


def _takes_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


def _plan(args: argparse.Namespace) -> int:
    from hptransfer.config import compose
    from hptransfer.sweep.display import plan_table
    from hptransfer.sweep.plan import make_plan, seconds_by_scale

    plan = make_plan(compose(args.sweep, args.overrides))
    console = _console()
    for part in plan_table(plan, seconds_by_scale(plan)):
        console.print(part, highlight=False)
    return EXIT_DONE


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    _takes_sweep(parser)
    parser.add_argument("--detach", action="store_true", help="leave it running when this terminal closes, and return")
    parser.add_argument("--dry-run", action="store_true", help="print what launcher=slurm would submit, and return")
    parser.add_argument("--next", type=int, metavar="K", help="train the K settings that analyze ranks as worth most")


def _detach(args: argparse.Namespace, plan: Plan) -> int:
    from hptransfer.sweep.detach import detach
    from hptransfer.sweep.session import check_folder

    check_folder(plan)
    folder = plan.config.folder
    further = [] if args.next is None else ["--next", str(args.next)]
    pid, code, said = detach(["sweep", args.sweep, *further, *args.overrides], folder)
    if code is not None:
        print(said, end="", file=sys.stdout if code in (EXIT_DONE, EXIT_TRIALS_FAILED) else sys.stderr)
        return code
    print(f"process {pid} drives {folder.path}; what it says goes to {folder.path / 'driver.log'}")
    print(f"watch: hptransfer status {folder.path} --watch")
    print(f"cancel its trials: hptransfer cancel {folder.path}; end the driver alone: kill {pid}")
    return EXIT_DONE


def _sweep(args: argparse.Namespace) -> int:
    from hptransfer.config import compose
    from hptransfer.sweep.plan import make_plan

    plan = make_plan(compose(args.sweep, args.overrides))
    if args.dry_run:
        return _dry_run(plan)
    if plan.config.driver == "slurm":
        return _submit_driver(args, plan)
    if args.detach:
        return _detach(args, plan)
    return _drive(plan, args.next)


def _drive(plan: Plan, further: int | None) -> int:
    """Has a sweep trained, or so many further settings of it, and analyzes it."""
    # The analysis too is opened before the first trial: what is missing or broken shows now, not after days.
    from hptransfer.analysis.pipeline import analysis_files, analyze_run
    from hptransfer.further import next_campaign
    from hptransfer.sweep.driver import Campaign
    from hptransfer.sweep.session import session

    console = _console()
    with session(plan, console) as open_session:
        report = open_session.train(Campaign.sweep(plan) if further is None else next_campaign(plan, further))
        code = open_session.announcer.code = _tell_report(report)
        try:
            analysis = analyze_run(open_session.folder)
        except FitError as error:
            if code == EXIT_DONE:
                raise
            print(f"no recommendation yet: {error}")
            return code
        open_session.tracker.summarize(analysis.metrics(), analysis_files(open_session.folder), analysis.summary())
    print(analysis.summary())
    print(f"report: {plan.config.folder.report}")
    return code


def _tell_report(report: Report) -> int:
    """Prints what fell short, and says so in the exit code."""
    from hptransfer.core.records import FAILED

    for line in report.unbracketed:
        print(f"not bracketed: {line}; nothing beyond is tried (space.*.extend)")
    for trial, outcome in report.progress.failures[:5]:
        print(f"failed: {trial.id} {trial.name}: {outcome.error}")
    for line in report.held:
        print(f"held back: {line}")
    if report.missing:
        print("the budget is spent; missing:")
        for line in report.missing:
            print(f"  {line}")
        return EXIT_BUDGET_SPENT
    failed = report.progress.count(FAILED)
    if failed:
        print(f"{failed} trials failed; `hptransfer logs RUN TRIAL` shows why")
        return EXIT_TRIALS_FAILED
    return EXIT_DONE


def _dry_run(plan: Plan) -> int:
    from hptransfer.sweep.launchers._slurm_config import SlurmConfig
    from hptransfer.sweep.launchers._slurm_preview import preview

    launcher = plan.config.launcher
    if not isinstance(launcher, SlurmConfig):
        raise ConfigError(
            f"--dry-run prints what launcher=slurm would submit, launcher={launcher.name} submits nothing; "
            "see `hptransfer plan`"
        )
    for part in preview(plan, launcher):
        print(part)
    return EXIT_DONE


def _submit_driver(args: argparse.Namespace, plan: Plan) -> int:
    from hptransfer.sweep.launchers._slurm_driver import submit_driver
    from hptransfer.sweep.session import check_folder

    check_folder(plan)
    folder = plan.config.folder
    folder.create(plan.config.share)
    folder.driver_lock.touch()  # by which a folder is known as a run's
    number = submit_driver(plan.config.launcher, folder, args.sweep, args.overrides)
    print(f"SLURM job {number} drives {folder.path}; what it says goes to {folder.path / 'driver.log'}")
    print(f"watch: hptransfer status {folder.path} --watch; end the driver alone: scancel {number}")
    return EXIT_DONE


def _takes_run_and_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("overrides", nargs="*", metavar="AXIS=VALUE", help="another scale than the target")


def _verify(args: argparse.Namespace) -> int:
    from hptransfer.sweep import config as sweep_config
    from hptransfer.sweep.plan import make_plan
    from hptransfer.sweep.session import session
    from hptransfer.verify import verify

    folder = _folder(args.run)
    plan = make_plan(sweep_config.load(folder))
    scale = plan.scale(_axes(args.overrides, plan.target.axes))
    console = _console()
    with session(plan, console) as open_session:
        report, verification = verify(open_session, scale)
        code = open_session.announcer.code = _tell_report(report)
    print(verification.summary())
    print(f"report: {folder.report}")
    return code


def _axes(overrides: Sequence[str], axes: Any) -> dict[str, float]:
    from hptransfer.sweep.config import check_axis

    values: dict[str, float] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        if key not in axes:
            raise ConfigError(unknown("axis", key, axes))
        try:
            values[key] = float(text)
        except ValueError:
            raise ConfigError(f"{key} must be a number, got {text!r}") from None
        check_axis(key, [values[key]])
    return values


# --- checks of a parameterization -----------------------------------------------------------------


def _coord_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as run/model=mlp run/optimizer=lion")
    parser.add_argument("--out", type=Path, metavar="DIR", help="writes check.json and check.svg there")


def _coord_check(args: argparse.Namespace) -> int:
    from hptransfer.config import compose_check, own_settings
    from hptransfer.core.files import made_writable, write_json, write_text
    from hptransfer.sweep.display import check_table
    from hptransfer.sweep.runners.builtin import run_check

    config = compose_check(args.overrides)
    with made_writable(args.out):
        result = run_check(config)
    console = _console()
    for part in check_table(result):
        console.print(part, highlight=False)
    print(
        f"the check's own settings: {' '.join(f'{key}={value}' for key, value in own_settings(args.overrides).items())}"
    )
    slower = [f"{row.name} {row.prescribed:+g}" for row in result.rows if row.prescribed]
    if slower:
        print(f"held to slopes other than 0, as they should be: {', '.join(slower)}")
    if result.reading:
        print(f"measured, nothing is judged: {result.reading}")
    elif result.passed:
        print("passed")
    else:
        more = f" and {len(result.fails) - 1} more (*)" if len(result.fails) > 1 else ""
        expected = f"; expected: {result.expected}" if result.expected else ""
        print(f"failed: {result.fails[0]}{more}; at most {result.tolerance} passes{expected}")
    if args.out is not None:
        from hptransfer.analysis.plots import check_figure

        values = dataclasses.asdict(result)
        write_json(args.out / "check.json", values)
        write_text(args.out / "check.svg", check_figure(values))
        print(f"written: {args.out / 'check.json'}, {args.out / 'check.svg'}")
    return EXIT_DONE if result.passed else EXIT_CHECK_FAILED


# --- what reads a run's folder --------------------------------------------------------------------


def _takes_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")


def _folder(run: str) -> RunFolder:
    """A run's folder by path or by name under runs/.

    Raises:
        RunFolderError: there is none.
    """
    from hptransfer.core.errors import RunFolderError
    from hptransfer.core.files import RunFolder, guard

    for path in (Path(run), Path("runs") / run):
        if (path / "sweep.yaml").is_file():
            guard(path)
            return RunFolder(path)
    known = [path.parent.name for path in Path("runs").glob("*/sweep.yaml")]
    raise RunFolderError(f"{unknown('run', run, known)} (folders under runs/, or a path)")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _takes_run(parser)
    parser.add_argument("--watch", action="store_true", help="again and again, until nothing runs any more")
    parser.add_argument("--all", action="store_true", help="every trial that failed or waits, not one a reason")


def _status(args: argparse.Namespace) -> int:
    from hptransfer.sweep.display import print_status, watch
    from hptransfer.sweep.status import read_status

    folder, console = _folder(args.run), _console()
    if args.watch:
        watch(console, lambda: read_status(folder), every=args.all)
    else:
        print_status(console, read_status(folder), every=args.all)
    return EXIT_DONE


def _choice_arguments(parser: argparse.ArgumentParser) -> None:
    _takes_run(parser)
    parser.add_argument("--scale", nargs="+", default=[], metavar="AXIS=VALUE", help="trials of these scales alone")
    parser.add_argument("--trial", nargs="+", default=[], metavar="ID", help="these trials alone; or beginnings of ids")


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    _choice_arguments(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _retry_arguments(parser: argparse.ArgumentParser) -> None:
    _choice_arguments(parser)
    parser.add_argument("--cause", nargs="+", default=[], metavar="CAUSE", help="what failed by these alone")


def _ask(args: argparse.Namespace, verb: str, causes: Sequence[str]) -> int:
    """Has trials cancelled or taken back, by the run's driver or here."""
    from hptransfer.sweep.asking import ask, chosen
    from hptransfer.sweep.config import load
    from hptransfer.sweep.requests import CANCEL, make_request

    folder = _folder(args.run)
    axes = load(folder).grid
    request = make_request(verb, axes, scale=args.scale, trials=args.trial, causes=causes)
    trials = chosen(folder, request)
    cancels = verb == CANCEL
    if not trials:
        print(f"{folder.path}: nothing to {verb}: no such trial {'is unfinished' if cancels else 'failed'}")
        return EXIT_DONE
    if cancels and not args.yes and sys.stdin.isatty():
        question = f"cancel {len(trials)} unfinished trials of {folder.path}, such as {trials[0].name}? [y/N] "
        if input(question).strip().lower() not in ("y", "yes"):
            print("nothing was cancelled")
            return EXIT_DONE
    done, driven = ask(folder, request)
    number = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    if not done:
        print(f"{folder.path}: asked the driver to {verb} {number}; `hptransfer status` shows when it has")
    elif cancels:
        print(f"{folder.path}: {number} cancelled; `hptransfer retry --cause cancelled` takes them back")
    elif driven:
        print(f"{folder.path}: {number} taken back; its driver trains them again")
    else:
        print(f"{folder.path}: {number} taken back; run `hptransfer sweep` again to train them")
    return EXIT_DONE


def _cancel(args: argparse.Namespace) -> int:
    return _ask(args, "cancel", [])


def _retry(args: argparse.Namespace) -> int:
    return _ask(args, "retry", args.cause)


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
    from hptransfer.analysis.pipeline import Options, analyze_run, analyze_source
    from hptransfer.analysis.sources import Source

    if sum(given is not None for given in (args.run, args.table, args.mlflow)) != 1:
        raise ConfigError("analyze takes one of RUN, --table FILE and --mlflow URI")
    if args.run is not None:
        _refuse(args, ("experiment", "columns", "scale", "tune", "loss", "out"), "a run")
    else:
        _refuse(args, ("against",) if args.mlflow else ("against", "experiment"), "a table")
    options = Options.of(args.estimator, args.laws, args.format, prior=not args.no_prior)
    against = _folder(args.against) if args.against else None
    if args.run is not None:
        folder = _folder(args.run)
        analysis, out = analyze_run(folder, targets=args.targets, options=options, against=against), folder.path
    else:
        for option in ("scale", "tune", "targets", "out", *(["experiment"] if args.mlflow else [])):
            if getattr(args, option) is None:
                raise ConfigError(f"analyze of a table needs --{option}; see `hptransfer analyze --help`")
        source = Source.of(args.table, args.mlflow, args.experiment, args.columns)
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


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    _takes_run(parser)
    parser.add_argument("trial", metavar="TRIAL", help="its id, or the beginning of it")


def _logs(args: argparse.Namespace) -> int:
    from hptransfer.sweep.logs import trial_log

    for line in trial_log(_folder(args.run), args.trial):
        print(line)
    return EXIT_DONE


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _takes_run(parser)
    parser.add_argument("--format", choices=("json", "yaml"), default="json")


def _export(args: argparse.Namespace) -> int:
    from hptransfer.analysis.pipeline import export

    folder = _folder(args.run)

    def describe_target(axes: Mapping[str, float]) -> Mapping[str, Any]:
        from hptransfer.sweep import config as sweep_config
        from hptransfer.sweep.plan import make_plan

        plan = make_plan(sweep_config.load(folder))
        return plan.target_json(plan.scale(axes))

    answer = export(folder, describe_target)
    if args.format == "yaml":
        import yaml

        print(yaml.safe_dump(answer, sort_keys=False), end="")
    else:
        print(json.dumps(answer, indent=1))
    return EXIT_DONE


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    _takes_run(parser)
    parser.add_argument("--logs", action="store_true", help="also what finished jobs printed")
    parser.add_argument("--yes", action="store_true", help="without asking")


def _clean(args: argparse.Namespace) -> int:
    from hptransfer.sweep.clean import waste
    from hptransfer.sweep.driver import driving

    folder = _folder(args.run)
    with driving(folder):
        found = waste(folder, logs=args.logs)
        for one in found:
            print(f"{one.files:>7,} files {one.bytes / 1e6:>10,.2f} MB  {one.kind}")
        if not found:
            print(f"{folder.path}: nothing to remove")
        elif args.yes or _confirmed(f"remove them from {folder.path}?"):
            for one in found:
                one.remove()
            print("removed")
        else:
            print("nothing was removed")
    return EXIT_DONE


def _confirmed(question: str) -> bool:
    """Asks a person.

    Raises:
        ConfigError: there is none at the terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody can be asked here; nothing was removed, --yes removes without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


# --- what a sweep begins with ---------------------------------------------------------------------


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", nargs="?", help="what to start from; without it they are listed")
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, default=Path("my_sweep.yaml"))


def _init(args: argparse.Namespace) -> int:
    from hptransfer.core.share import starts

    known = starts()
    if args.kind is None:
        for kind, path in known.items():
            print(f"{kind:<10} {_first_comment(path)}")
        return EXIT_DONE
    if args.kind not in known:
        raise ConfigError(unknown("kind", args.kind, known))
    try:
        with args.file.open("x", encoding="utf-8") as file:
            file.write(known[args.kind].read_text(encoding="utf-8"))
    except FileExistsError:
        raise ConfigError(f"{args.file} exists, and is not overwritten; give another FILE") from None
    except OSError as error:
        raise ConfigError(f"{args.file} cannot be written ({error.strerror}); give another FILE") from None
    print(f"written: {args.file}; edit its command, costs, grid and space, then `hptransfer plan {args.file}`")
    return EXIT_DONE


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or a sweep file, whose run is then begun")
    parser.add_argument("table", metavar="TABLE", type=Path, help="runs made before, as CSV or parquet")
    parser.add_argument("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help="where names differ")
    parser.add_argument("--loss", metavar="NAME", default="loss", help="column of what a trial is judged by")
    parser.add_argument(
        "--trust", action="store_true", help="the runs had this sweep's settings; nothing can check that"
    )


def _import(args: argparse.Namespace) -> int:
    from hptransfer.config import compose
    from hptransfer.imports import import_table
    from hptransfer.sweep import config as sweep_config
    from hptransfer.sweep.plan import make_plan
    from hptransfer.sweep.session import session

    columns = dict(pair.partition("=")[::2] for pair in args.columns)
    if not all(columns.values()):
        raise ConfigError(f"--columns takes NAME=COLUMN, such as lr=learning_rate, got {' '.join(args.columns)}")
    is_file = Path(args.run).suffix in (".yaml", ".yml")
    plan = make_plan(compose(args.run) if is_file else sweep_config.load(_folder(args.run)))
    with session(plan, _console()) as open_session:
        found = import_table(plan, open_session.folder, args.table, columns=columns, loss=args.loss, trust=args.trust)
    print(f"{found.summary()}; `hptransfer sweep` trains what is missing")
    return EXIT_DONE


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", nargs="?", metavar="FAMILY", help=f"sweep, {', '.join(FAMILIES)}; or all of them")


def _list(args: argparse.Namespace) -> int:
    from hptransfer.core.registry import Registry

    known = ["sweep", *FAMILIES]
    if args.family is not None and args.family not in known:
        raise ConfigError(unknown("family", args.family, known))
    for family in [args.family] if args.family else known:
        print(f"{family}:")
        if family == "sweep":
            members = {path.stem: _first_comment(path) for path in _sweep_files()}
        else:
            registry: Registry[Any] = Registry(family, FAMILIES[family])
            members = {name: registry.summary(name) for name in registry.names()}
        for name, summary in members.items():
            print(f"  {name:<14} {summary}")
    return EXIT_DONE


def _sweep_files() -> list[Path]:
    from hptransfer.core.share import share

    return sorted(path for folder in share("sweeps") for path in folder.glob("*.yaml"))


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


VERBS = {
    "plan": Verb("what a sweep would train, and what that costs; starts nothing", _takes_sweep, _plan),
    "sweep": Verb("train a sweep, or go on with it; ends with the recommendation", _sweep_arguments, _sweep),
    "status": Verb(
        "trials of a run by state, and why what failed or waits does so",
        _status_arguments,
        _status,
        interrupted="it only looked",
    ),
    "cancel": Verb("end trials of a run, whether they train or wait", _cancel_arguments, _cancel),
    "retry": Verb("take failed trials back, so that they are trained again", _retry_arguments, _retry),
    "analyze": Verb("fit the law, predict for the target, write the report", _analyze_arguments, _analyze),
    "verify": Verb("train the target around the prediction and measure the regret", _takes_run_and_overrides, _verify),
    "coord-check": Verb(
        "train at several sizes for a few steps: what must not move, does it?",
        _coord_check_arguments,
        _coord_check,
        interrupted="nothing of a check is kept, the same command starts it again",
    ),
    "logs": Verb("what a trial printed", _logs_arguments, _logs),
    "export": Verb("the answer, as JSON or YAML for a trainer's configuration", _export_arguments, _export),
    "clean": Verb(
        "remove what a run no longer needs, after asking",
        _clean_arguments,
        _clean,
        interrupted="what is removed is removed, the same command goes on",
    ),
    "init": Verb("a commented sweep file to start from", _init_arguments, _init),
    "import": Verb("results of runs made before, as finished trials of a run", _import_arguments, _import),
    "list": Verb("what sweeps can be made of", _list_arguments, _list),
}

if __name__ == "__main__":
    main()
