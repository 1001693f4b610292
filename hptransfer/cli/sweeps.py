"""The verbs that plan and train: plan, sweep, verify."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hptransfer.cli.verb import Verb, add_run_argument, add_trust_argument, make_console, run_folder
from hptransfer.core.errors import (
    EXIT_BUDGET_SPENT,
    EXIT_DONE,
    EXIT_TRIALS_FAILED,
    ConfigError,
    FitError,
    printable,
)

if TYPE_CHECKING:
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
    for part in plan_table(plan, seconds_by_scale(plan)):
        console.print(part, highlight=False)
    return EXIT_DONE


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    _plan_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument("--detach", action="store_true", help="run in the background, even after the terminal closes")
    parser.add_argument("--dry-run", action="store_true", help="print what launcher=slurm would submit, and exit")
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
    return _drive(plan, args.next)


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

    check_folder(plan)
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

    check_folder(plan)
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


def _drive(plan: Plan, num_next: int | None) -> int:
    """Train and analyze a sweep, or only its most valuable next points."""
    # Imported before the first trial, so that a broken installation shows at once and not after days.
    from hptransfer.analysis.pipeline import analysis_files, analyze_run
    from hptransfer.next_trials import next_trial_set
    from hptransfer.planning.trial_set import TrialSet
    from hptransfer.session.session import session

    console = make_console()
    with session(plan, console) as open_session:
        trial_set = TrialSet.sweep(plan) if num_next is None else next_trial_set(plan, num_next)
        code = open_session.announcer.code = _print_shortfall(open_session.train(trial_set))
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


def _print_shortfall(summary: DriverSummary) -> int:
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
    with session(plan, console) as open_session:
        summary, verification = verify(open_session, scale)
        code = open_session.announcer.code = _print_shortfall(summary)
    print(verification.summary())
    print(f"report: {folder.report}")
    return code


PLAN_VERB = Verb("show a sweep's scales, trials and cost; start nothing", _plan_arguments, _plan)
SWEEP_VERB = Verb("train a sweep, or resume it, and print the recommendation", _sweep_arguments, _sweep)
VERIFY_VERB = Verb("train the target around the prediction and measure the regret", _verify_arguments, _verify)
