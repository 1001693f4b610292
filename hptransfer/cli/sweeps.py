"""The verbs that plan and train: plan, sweep, verify."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hptransfer.cli.verb import Verb, add_run_argument, add_trust_argument, make_console, run_folder
from hptransfer.core.errors import (
    EXIT_BUDGET_SPENT,
    EXIT_DONE,
    EXIT_TRIALS_FAILED,
    ConfigError,
    FitError,
    RunFolderError,
    printable,
)

if TYPE_CHECKING:
    from hptransfer.core.records import Outcome, Scale, Trial
    from hptransfer.core.run_folder import RunFolder
    from hptransfer.driver.summary import DriverSummary
    from hptransfer.planning.plan import Plan


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name in sweeps/, or path to a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that override the sweep file's")


def _plan(args: argparse.Namespace) -> int:
    from hptransfer.config.compose import compose
    from hptransfer.monitor.tables import plan_table
    from hptransfer.planning.cost import seconds_by_scale
    from hptransfer.planning.plan import make_plan

    plan = make_plan(compose(args.sweep, args.overrides))
    console = make_console()
    seconds = seconds_by_scale(plan)
    for part in plan_table(plan, seconds):
        console.print(part, highlight=False)
    for line in _plan_details(plan, seconds):
        print(printable(line))
    return EXIT_DONE


def _plan_details(plan: Plan, seconds: Mapping[Scale, float | None]) -> Iterator[str]:
    """Yield lines on values, commands, folder and verification."""
    from hptransfer.monitor import plan_details as details
    from hptransfer.session.identity_check import refuse_other_identity
    from hptransfer.smoke_trial import beginning
    from hptransfer.verify import points_around

    yield from details.value_lines(plan)
    yield from details.trial_lines(plan, beginning(plan))
    if limit := details.limit_line(plan):
        yield limit
    middle = {name: values[len(values) // 2] for name, values in plan.grids.items()}
    yield details.verification_line(plan, seconds, len(points_around(plan, middle, middle)))
    try:
        refuse_other_identity(plan.config.folder, plan, accept_changed=False)
    except RunFolderError as error:
        yield from (*error.details, f"sweep would refuse this: {error}")
    else:
        yield details.state_line(plan, seconds)


def _add_accept_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-changed",
        action="store_true",
        help="go on although the script has changed; predictions name both versions",
    )


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    _plan_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument("--detach", action="store_true", help="run in the background, even after the terminal closes")
    parser.add_argument("--dry-run", action="store_true", help="print what launcher=slurm would submit, and exit")
    _add_accept_argument(parser)
    parser.add_argument("--next", type=int, metavar="K", help="train the K points that next.csv ranks highest")


def _sweep(args: argparse.Namespace) -> int:
    from hptransfer.config.compose import compose
    from hptransfer.core.permissions import require_trust
    from hptransfer.planning.plan import make_plan

    if args.next is not None and args.next < 1:
        raise ConfigError(f"--next must be at least 1, got {args.next}")
    plan = make_plan(compose(args.sweep, args.overrides))
    if args.dry_run:
        return _dry_run(plan)
    require_trust(plan.config.folder.path, trusted=args.trust)
    if args.next is not None:
        _check_next(plan)
    plan.runner.check_files(plan.run(plan.target), plan.config.folder)
    if plan.config.driver == "slurm":
        return _submit_driver(args, plan)
    if args.detach:
        return _detach(args, plan)
    return _drive(plan, args.next, accept_changed=args.accept_changed)


def _check_next(plan: Plan) -> None:
    """Raise ConfigError if the points that --next ranks cannot be trained."""
    if not plan.config.folder.sweep.exists():
        raise ConfigError(
            f"--next continues a trained sweep, and {plan.config.folder.path} holds none; leave it out to train it"
        )
    if plan.config.driver == "slurm":
        raise ConfigError("--next is for a driver in this process; give it with driver=local")


def _dry_run(plan: Plan) -> int:
    from hptransfer.launchers.slurm.preview import preview
    from hptransfer.planning.plan import jobs_of

    launcher = plan.config.launcher
    if not launcher.is_cluster:
        raise ConfigError(
            f"--dry-run prints what launcher=slurm would submit, launcher={launcher.name} submits nothing; "
            "see `hptransfer plan`"
        )
    jobs = (job for scale in plan.scales for job in jobs_of(plan, scale))
    for part in preview(launcher, plan.config.folder, jobs):
        print(part)
    return EXIT_DONE


def _submit_driver(args: argparse.Namespace, plan: Plan) -> int:
    from hptransfer.launchers.slurm.driver_job import submit_driver
    from hptransfer.session.session import check_folder

    check_folder(plan, accept_changed=args.accept_changed)
    folder = plan.config.folder
    folder.create(plan.config.share)
    folder.mark()
    number = submit_driver(plan.config.launcher, folder, args.sweep, args.overrides)
    print(f"SLURM job {number} drives {folder.path}; its output goes to {folder.path / 'driver.log'}")
    print(f"watch: hptransfer status {folder.path} --watch; stop the driver only: scancel {number}")
    return EXIT_DONE


def _detach(args: argparse.Namespace, plan: Plan) -> int:
    from hptransfer.session.detach import detach
    from hptransfer.session.session import check_folder

    check_folder(plan, accept_changed=args.accept_changed)
    folder = plan.config.folder
    options = [] if args.next is None else ["--next", str(args.next)]
    arguments = ["sweep", args.sweep, "--trust", *options, *args.overrides]
    pid, code, output = detach(arguments, folder, plan.config.share)
    if code is not None:
        for line in output.splitlines():
            print(printable(line), file=sys.stdout if code in (EXIT_DONE, EXIT_TRIALS_FAILED) else sys.stderr)
        return code
    print(f"process {pid} drives {folder.path}; its output goes to {folder.path / 'driver.log'}")
    print(f"watch: hptransfer status {folder.path} --watch")
    print(f"cancel its trials: hptransfer cancel {folder.path}; stop the driver only: kill {pid}")
    return EXIT_DONE


def _drive(plan: Plan, num_next: int | None, *, accept_changed: bool) -> int:
    """Train and analyze a sweep, or only its most valuable next points."""
    # Imported before the first trial, so that a broken installation shows at once and not after days.
    from hptransfer.analysis.pipeline import analysis_files, analyze_run
    from hptransfer.core.records import CANCELLED
    from hptransfer.next_trials import next_trial_set
    from hptransfer.planning.trial_set import TrialSet
    from hptransfer.session.session import session
    from hptransfer.smoke_trial import failed_trial, run_smoke_trial

    console = make_console()
    with session(plan, console, accept_changed=accept_changed) as open_session:
        smoke = run_smoke_trial(open_session) if num_next is None else None
        if smoke is not None and (failure := failed_trial(open_session)) is not None:
            open_session.announcer.code = EXIT_TRIALS_FAILED
            _print_stop(open_session.folder, *failure, "the sweep stops at its smoke trial")
            cancelled = failure[1].cause == CANCELLED
            reset = f"reset it with `hptransfer retry {plan.config.folder.path}`" if cancelled else "correct that"
            print(f"{reset}, then run the same command again: it begins with this trial")
            return EXIT_TRIALS_FAILED
        trial_set = TrialSet.sweep(plan) if num_next is None else next_trial_set(plan, num_next)
        code = open_session.announcer.code = _print_shortfall(open_session.train(trial_set), plan.config.folder)
        try:
            analysis = analyze_run(open_session.folder)
        except FitError as error:
            if code == EXIT_DONE:
                raise
            for line in (f"no recommendation yet: {error}", *(f"warning: {warning}" for warning in error.warnings)):
                print(line)
            return code
        open_session.tracker.summarize(analysis.metrics(), analysis_files(open_session.folder), analysis.summary())
    print(analysis.summary())
    print(f"report: {plan.config.folder.report}")
    return code


def _print_stop(folder: RunFolder, trial: Trial, outcome: Outcome, what: str) -> None:
    """Print the failure at which a sweep stops, with its last lines."""
    from hptransfer.monitor.logs import last_lines

    print(printable(f"{what} {trial.id} {trial.name}: {outcome.error}"))
    lines = last_lines(folder, trial.id)
    if lines:
        print("the last lines that it printed:")
    for line in lines:
        print(printable(f"  {line}"))


def _print_shortfall(summary: DriverSummary, folder: RunFolder) -> int:
    """Print what is missing or failed, and return the exit code."""
    from hptransfer.core.records import CANCELLED, FAILED
    from hptransfer.monitor.failures import explain_failures

    for line in summary.unbracketed:
        print(f"not bracketed: {line}")
    for line in summary.loose:
        print(f"loosely bracketed: {line}")
    for line in explain_failures(summary.progress.failures):
        print(printable(line))
    for line in summary.waiting_for_pilot:
        print(f"waiting: {line}")
    if summary.stopped_by is not None:
        stop = summary.stopped_by
        _print_stop(
            folder, stop.trial, stop.outcome, f"stopped after {stop.count} equal failures in a row, the last by"
        )
        for line in summary.missing:
            print(f"  {line}")
        print(
            f"correct that, then `hptransfer retry {folder.path}` and the same command; retry.stop_after=null goes on "
            "without a correction"
        )
        return EXIT_TRIALS_FAILED
    if summary.missing:
        print("the budget is spent; missing:")
        for line in summary.missing:
            print(f"  {line}")
        return EXIT_BUDGET_SPENT
    if cancelled := summary.progress.count(CANCELLED):
        trials = f"{cancelled} trials were" if cancelled > 1 else "1 trial was"
        print(f"{trials} cancelled; `hptransfer retry RUN --cause cancelled` resets them")
    failed = summary.progress.count(FAILED)
    if failed:
        print(f"{failed} trial{'s' if failed > 1 else ''} failed; `hptransfer logs RUN TRIAL` shows why")
        return EXIT_TRIALS_FAILED
    return EXIT_DONE


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    add_trust_argument(parser)
    _add_accept_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="AXIS=VALUE", help="verify at another scale than the target")


def _verify(args: argparse.Namespace) -> int:
    from hptransfer.config import sweep as sweep_config
    from hptransfer.core.permissions import require_trust
    from hptransfer.planning.plan import make_plan
    from hptransfer.session.session import session
    from hptransfer.verify import verify

    folder = run_folder(args.run)
    require_trust(folder.path, trusted=args.trust)
    plan = make_plan(sweep_config.load_sweep(folder))
    scale = plan.scale(sweep_config.read_axes(args.overrides, plan.target.axes))
    console = make_console()
    with session(plan, console, accept_changed=args.accept_changed) as open_session:
        summary, verification = verify(open_session, scale)
        code = open_session.announcer.code = _print_shortfall(summary, folder)
    print(verification.summary())
    print(f"report: {folder.report}")
    return code


PLAN_VERB = Verb("show a sweep's scales, trials and cost; start nothing", _plan_arguments, _plan)
SWEEP_VERB = Verb("train a sweep, or resume it, and print the recommendation", _sweep_arguments, _sweep)
VERIFY_VERB = Verb("train the target around the prediction and measure the regret", _verify_arguments, _verify)
