"""plan, sweep, verify: what needs a sweep's configuration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hptransfer.cli.verb import Verb, make_console, run_folder, takes_run
from hptransfer.core.errors import EXIT_BUDGET_SPENT, EXIT_DONE, EXIT_TRIALS_FAILED, ConfigError, FitError, unknown

if TYPE_CHECKING:
    from hptransfer.driver.driver import DriverSummary
    from hptransfer.planning.plan import Plan


def _takes_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


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
    _takes_sweep(parser)
    parser.add_argument("--detach", action="store_true", help="leave it running when this terminal closes, and return")
    parser.add_argument("--dry-run", action="store_true", help="print what launcher=slurm would submit, and return")
    parser.add_argument("--next", type=int, metavar="K", help="train the K settings that analyze ranks as worth most")


def _sweep(args: argparse.Namespace) -> int:
    from hptransfer.config.compose import compose
    from hptransfer.planning.plan import make_plan

    plan = make_plan(compose(args.sweep, args.overrides))
    if args.dry_run:
        return _dry_run(plan)
    plan.runner.check_there(plan.run(plan.target), plan.config.folder)
    if plan.config.driver == "slurm":
        return _submit_driver(args, plan)
    if args.detach:
        return _detach(args, plan)
    return _drive(plan, args.next)


def _dry_run(plan: Plan) -> int:
    from hptransfer.launchers.slurm.config import SlurmConfig
    from hptransfer.launchers.slurm.preview import preview
    from hptransfer.planning.plan import jobs_of

    launcher = plan.config.launcher
    if not isinstance(launcher, SlurmConfig):
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
    folder.driver_lock.touch()  # by which a folder is known as a run's
    number = submit_driver(plan.config.launcher, folder, args.sweep, args.overrides)
    print(f"SLURM job {number} drives {folder.path}; what it says goes to {folder.path / 'driver.log'}")
    print(f"watch: hptransfer status {folder.path} --watch; end the driver alone: scancel {number}")
    return EXIT_DONE


def _detach(args: argparse.Namespace, plan: Plan) -> int:
    from hptransfer.session.detach import detach
    from hptransfer.session.session import check_folder

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


def _drive(plan: Plan, further: int | None) -> int:
    """Has a sweep trained, or so many further settings of it, and analyzes it."""
    # The analysis too is opened before the first trial: what is missing or broken shows now, not after days.
    from hptransfer.analysis.pipeline import analysis_files, analyze_run
    from hptransfer.next_trials import next_trial_set
    from hptransfer.planning.trial_set import TrialSet
    from hptransfer.session.session import session

    console = make_console()
    with session(plan, console) as open_session:
        report = open_session.train(TrialSet.sweep(plan) if further is None else next_trial_set(plan, further))
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


def _tell_report(report: DriverSummary) -> int:
    """Prints what fell short, and says so in the exit code."""
    from hptransfer.core.records import FAILED

    for line in report.unbracketed:
        print(f"not bracketed: {line}")
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
        print(f"{failed} trial{'s' if failed > 1 else ''} failed; `hptransfer logs RUN TRIAL` shows why")
        return EXIT_TRIALS_FAILED
    return EXIT_DONE


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    takes_run(parser)
    parser.add_argument("overrides", nargs="*", metavar="AXIS=VALUE", help="another scale than the target")


def _verify(args: argparse.Namespace) -> int:
    from hptransfer.config import sweep as sweep_config
    from hptransfer.planning.plan import make_plan
    from hptransfer.session.session import session
    from hptransfer.verify import verify

    folder = run_folder(args.run)
    plan = make_plan(sweep_config.load_sweep(folder))
    scale = plan.scale(_axes(args.overrides, plan.target.axes))
    console = make_console()
    with session(plan, console) as open_session:
        report, verification = verify(open_session, scale)
        code = open_session.announcer.code = _tell_report(report)
    print(verification.summary())
    print(f"report: {folder.report}")
    return code


def _axes(overrides: Sequence[str], axes: Any) -> dict[str, float]:
    from hptransfer.config.sweep import check_axis

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


PLAN = Verb("what a sweep would train, and what that costs; starts nothing", _takes_sweep, _plan)
SWEEP = Verb("train a sweep, or go on with it; ends with the recommendation", _sweep_arguments, _sweep)
VERIFY = Verb("train the target around the prediction and measure the regret", _verify_arguments, _verify)
