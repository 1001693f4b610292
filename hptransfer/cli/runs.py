"""status, cancel, retry, logs, export, clean: what reads or changes a run's folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hptransfer.cli.verb import Verb, make_console, run_folder, takes_run
from hptransfer.core.errors import EXIT_DONE, ConfigError


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("--watch", action="store_true", help="again and again, until nothing runs any more")
    parser.add_argument("--all", action="store_true", help="every trial that failed or waits, not one a reason")


def _status(args: argparse.Namespace) -> int:
    from hptransfer.monitor.status import read_status
    from hptransfer.monitor.tables import print_status, watch

    folder, console = run_folder(args.run), make_console()
    if args.watch:
        watch(console, lambda: read_status(folder), every=args.all)
    else:
        print_status(console, read_status(folder), every=args.all)
    return EXIT_DONE


def _choice_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
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
    from hptransfer.config.sweep import load_sweep
    from hptransfer.driver.requests import CANCEL, make_request
    from hptransfer.session.request_client import matching_trials, send_request

    folder = run_folder(args.run)
    axes = load_sweep(folder).grid
    request = make_request(verb, axes, scale=args.scale, trials=args.trial, causes=causes)
    trials = matching_trials(folder, request)
    cancels = verb == CANCEL
    if not trials:
        print(f"{folder.path}: nothing to {verb}: no such trial {'is unfinished' if cancels else 'failed'}")
        return EXIT_DONE
    if cancels and not args.yes and sys.stdin.isatty():
        question = f"cancel {len(trials)} unfinished trials of {folder.path}, such as {trials[0].name}? [y/N] "
        if input(question).strip().lower() not in ("y", "yes"):
            print("nothing was cancelled")
            return EXIT_DONE
    done, driven = send_request(folder, request)
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


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("trial", metavar="TRIAL", help="its id, or the beginning of it")


def _logs(args: argparse.Namespace) -> int:
    from hptransfer.monitor.logs import trial_log

    for line in trial_log(run_folder(args.run), args.trial):
        print(line)
    return EXIT_DONE


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("--format", choices=("json", "yaml"), default="json")


def _export(args: argparse.Namespace) -> int:
    from hptransfer.analysis.pipeline import export

    folder = run_folder(args.run)

    def describe_target(axes: Mapping[str, float]) -> Mapping[str, Any]:
        from hptransfer.config import sweep as sweep_config
        from hptransfer.planning.plan import make_plan

        plan = make_plan(sweep_config.load_sweep(folder))
        return plan.target_json(plan.scale(axes))

    answer = export(folder, describe_target)
    if args.format == "yaml":
        import yaml

        print(yaml.safe_dump(answer, sort_keys=False), end="")
    else:
        print(json.dumps(answer, indent=1))
    return EXIT_DONE


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("--logs", action="store_true", help="also what finished jobs printed")
    parser.add_argument("--yes", action="store_true", help="without asking")


def _clean(args: argparse.Namespace) -> int:
    from hptransfer.driver.driver import driving
    from hptransfer.monitor.clean import find_removable

    folder = run_folder(args.run)
    with driving(folder):
        found = find_removable(folder, logs=args.logs)
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


STATUS = Verb(
    "trials of a run by state, and why what failed or waits does so",
    _status_arguments,
    _status,
    interrupted="it only looked",
)
CANCEL = Verb("end trials of a run, whether they train or wait", _cancel_arguments, _cancel)
RETRY = Verb("take failed trials back, so that they are trained again", _retry_arguments, _retry)
LOGS = Verb("what a trial printed", _logs_arguments, _logs)
EXPORT = Verb("the answer, as JSON or YAML for a trainer's configuration", _export_arguments, _export)
CLEAN = Verb(
    "remove what a run no longer needs, after asking",
    _clean_arguments,
    _clean,
    interrupted="what is removed is removed, the same command goes on",
)
