"""Details of a plan: values, commands, folder and cost of a verification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hptransfer.core.records import CANCELLED, FAILED, SWEEP, Scale, Trial, short
from hptransfer.monitor.tables import clock
from hptransfer.planning.plan import Plan


def value_lines(plan: Plan) -> list[str]:
    """Return a line for each tuned hyperparameter, with its values."""
    lines = []
    for name, config in plan.config.space.items():
        values = plan.grids[name]
        if plan.config.sampler.points:
            chosen = f"{plan.num_points} values from {short(values[0])} to {short(values[-1])}"
            lines.append(f"{name}: {chosen}, chosen by sampler={plan.config.sampler.name}")
            continue
        further = f"; up to {config.extend} more on a side whose edge is best" if config.extend else ""
        lines.append(f"{name}: {', '.join(map(short, values))}{further}")
    return lines


def trial_lines(plan: Plan, first: Mapping[str, Trial]) -> list[str]:
    """Return the first and the last trial, with their commands.

    Args:
        first: the trials at its beginning, by their descriptions.
    """
    last_values = dict(zip(plan.tuned, plan.points[-1], strict=True))
    costliest = max(plan.scales, key=lambda scale: plan.sizes[scale].flops)
    last = plan.trial(costliest, last_values, plan.seeds[-1])
    lines = []
    for what, trial in {**first, "last trial": last}.items():
        lines.append(f"{what}: {trial.name}")
        command = plan.runner.command_line(trial, plan.config.folder)
        lines += [f"  {command}"] if command else []
    return lines


def state_line(plan: Plan, seconds: Mapping[Scale, float | None]) -> str:
    """Return a line on the trials in the folder and those left."""
    folder = plan.config.folder
    states: Counter[str] = Counter()
    finished: Counter[Scale] = Counter()
    for trial in folder.each_trial():
        outcome = folder.read_outcome(trial.id)
        if trial.purpose == SWEEP and trial.scale in plan.scales and outcome is not None:
            states[CANCELLED if outcome.cause == CANCELLED else outcome.state] += 1
            finished[trial.scale] += _is_planned(plan, trial)
    left = {scale: max(0, plan.num_trials(scale) - finished[scale]) for scale in plan.scales}
    flops = sum(count * plan.sizes[scale].flops for scale, count in left.items())
    there = ", ".join(f"{count} {state}" for state, count in states.items()) or "nothing"
    rest = f"left: {sum(left.values())} trials, {flops:.3g} FLOPs"
    times = [seconds[scale] for scale, count in left.items() if count]
    if times and None not in times:
        left_s = sum(count * (seconds[scale] or 0.0) for scale, count in left.items())
        rest += f", {clock(left_s)} one after another"
    again = "; `hptransfer retry` trains failed ones again" if states[FAILED] else ""
    return f"in {folder.path} already: {there}; {rest}{again}"


def _is_planned(plan: Plan, trial: Trial) -> bool:
    """True for a trial of the plan; False beyond an edge."""
    if plan.config.sampler.points:
        return trial.seed in plan.seeds
    return tuple(trial.tuned[name] for name in plan.tuned) in plan.points and trial.seed in plan.seeds


def verification_line(plan: Plan, seconds: Mapping[Scale, float | None], num_points: int) -> str:
    """Return the cost of a verification at the target.

    Args:
        num_points: number of points that it trains first.
    """
    count = num_points * len(plan.seeds)
    flops, target_s = count * plan.sizes[plan.target].flops, seconds[plan.target]
    time = "" if target_s is None else f", {clock(count * target_s)} one after another"
    return (
        f"a verification would train the target {count} times: {flops:.3g} FLOPs{time}, "
        f"{flops / plan.flops():.3g} times the sweep; more if its best value is at an edge"
    )


def limit_line(plan: Plan) -> str | None:
    """Return the line about a missing time limit; None with one."""
    run = plan.run(plan.target)
    if not plan.runner.may_hang(run) or plan.runner.timeout_factor(run) is not None:
        return None
    return (
        "no time limit: a trial that hangs is warned of and not ended; set run.timeout_s, or run.timeout_factor=5 for "
        "a limit by other trials of its scale"
    )
