"""The verbs on a run folder, such as status, trials and export."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.cli.verb import Verb, add_run_argument, add_trust_argument, make_console, run_folder
from hptransfer.core.errors import EXIT_DONE, ConfigError, printable


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--watch", action="store_true", help="repeat until no trial runs and no driver is left")
    parser.add_argument(
        "--all", action="store_true", help="list every trial that failed or is waiting, not one per reason"
    )


def _show_status(args: argparse.Namespace) -> int:
    from hptransfer.monitor.status import read_status
    from hptransfer.monitor.tables import print_status, watch

    folder, console = run_folder(args.run), make_console()
    if args.watch:
        watch(console, lambda: read_status(folder), every=args.all)
    else:
        print_status(console, read_status(folder), every=args.all)
    return EXIT_DONE


def _show_trials(args: argparse.Namespace) -> int:
    from hptransfer.monitor.trials import trial_lines

    for line in trial_lines(run_folder(args.run)):
        print(printable(line))
    return EXIT_DONE


def _trial_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    add_trust_argument(parser)
    parser.add_argument("--scale", nargs="+", default=[], metavar="AXIS=VALUE", help="only trials of this scale")
    parser.add_argument(
        "--trial", nargs="+", default=[], metavar="ID", help="only these trials, by the start of their ids"
    )


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    _trial_arguments(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _retry_arguments(parser: argparse.ArgumentParser) -> None:
    _trial_arguments(parser)
    parser.add_argument(
        "--cause", nargs="+", default=[], metavar="CAUSE", help="only trials that failed by these causes"
    )


def _request(args: argparse.Namespace, verb: str, causes: Sequence[str]) -> int:
    """Cancel or reset trials, through the run's driver or in this process."""
    from hptransfer.config.sweep import load_sweep
    from hptransfer.core.permissions import require_trust
    from hptransfer.driver.requests import CANCEL, make_request
    from hptransfer.session.request_client import matching_trials, send_request

    folder = run_folder(args.run)
    require_trust(folder.path, trusted=args.trust)
    axes = load_sweep(folder).grid
    request = make_request(verb, axes, scale=args.scale, trials=args.trial, causes=causes)
    trials = matching_trials(folder, request)
    cancels = verb == CANCEL
    if not trials:
        print(f"{folder.path}: nothing to {verb}: no matching trial {'is unfinished' if cancels else 'has failed'}")
        return EXIT_DONE
    if cancels and not args.yes and sys.stdin.isatty():
        question = f"cancel {len(trials)} unfinished trials of {folder.path}, such as {trials[0].name}? [y/N] "
        if input(question).strip().lower() not in ("y", "yes"):
            print("no trial was cancelled")
            return EXIT_DONE
    done, driven = send_request(folder, request)
    number = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    if not done:
        print(f"{folder.path}: asked the driver to {verb} {number}; `hptransfer status` shows when it is done")
    elif cancels:
        print(f"{folder.path}: {number} cancelled; `hptransfer retry --cause cancelled` resets them")
    elif driven:
        print(f"{folder.path}: {number} reset; the driver reruns them")
    else:
        print(f"{folder.path}: {number} reset; run `hptransfer sweep` again to train them")
    return EXIT_DONE


def _cancel(args: argparse.Namespace) -> int:
    return _request(args, "cancel", [])


def _retry(args: argparse.Namespace) -> int:
    return _request(args, "retry", args.cause)


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("trial", metavar="TRIAL", help="the trial's id, or the start of it")


def _logs(args: argparse.Namespace) -> int:
    from hptransfer.monitor.logs import trial_log

    for line in trial_log(run_folder(args.run), args.trial):
        print(printable(line))
    return EXIT_DONE


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    add_trust_argument(parser)
    parser.add_argument("--format", choices=("json", "yaml"), default="json", help="json (default) or yaml")


def _export(args: argparse.Namespace) -> int:
    from hptransfer.analysis.pipeline import export

    folder = run_folder(args.run)

    def describe_target(axes: Mapping[str, float]) -> Mapping[str, Any]:
        from hptransfer.config import sweep as sweep_config
        from hptransfer.core.permissions import require_trust
        from hptransfer.planning.plan import make_plan
        from hptransfer.worker.runners import RUNNERS

        config = sweep_config.load_sweep(folder)
        if RUNNERS.get(config.run["runner"]).plan_imports(config.run):
            require_trust(folder.path, trusted=args.trust)
        plan = make_plan(config)
        return plan.target_json(plan.scale(axes))

    answer = export(folder, describe_target)
    if args.format == "yaml":
        import yaml

        print(yaml.safe_dump(answer, sort_keys=False), end="")
    else:
        print(json.dumps(answer, indent=1))
    return EXIT_DONE


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument("--logs", action="store_true", help="also remove the logs of finished jobs")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _clean(args: argparse.Namespace) -> int:
    from hptransfer.driver.driver import driving
    from hptransfer.monitor.clean import find_removable

    folder = run_folder(args.run)
    with driving(folder):
        removables = find_removable(folder, logs=args.logs)
        for removable in removables:
            print(f"{removable.files:>7,} files {removable.bytes / 1e6:>10,.2f} MB  {removable.kind}")
        if not removables:
            print(f"{folder.path}: nothing to remove")
        elif args.yes or _confirmed(f"remove them from {folder.path}?"):
            for removable in removables:
                removable.remove()
            print("removed")
        else:
            print("nothing was removed")
    return EXIT_DONE


def _confirmed(question: str) -> bool:
    """Ask for confirmation at the terminal.

    Raises:
        ConfigError: standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Input is not a terminal, so nothing was removed; --yes removes without asking")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


STATUS_VERB = Verb(
    "show progress, and why trials failed or are waiting",
    _status_arguments,
    _show_status,
    interrupted="status changes nothing",
)
TRIALS_VERB = Verb(
    "list all trials: id, scale, values, state, loss",
    add_run_argument,
    _show_trials,
    interrupted="trials changes nothing",
)
CANCEL_VERB = Verb("cancel unfinished trials: all, one scale, or one --trial", _cancel_arguments, _cancel)
RETRY_VERB = Verb("reset failed trials; the next `sweep` reruns them", _retry_arguments, _retry)
LOGS_VERB = Verb("print the output of a trial", _logs_arguments, _logs)
EXPORT_VERB = Verb("print the answer as JSON or YAML for a trainer's configuration", _export_arguments, _export)
CLEAN_VERB = Verb(
    "remove files that a run no longer needs, after asking",
    _clean_arguments,
    _clean,
    interrupted="some files may be removed, and the same command removes the rest",
)
