"""Smoke trial: the first trial of a sweep, which runs alone.

A wrong path or a wrong pattern then fails once and not at every trial. The smoke trial has the middle value, at the
cheapest scale. It counts as a trial of the sweep, unless `run.smoke` shortens it. Its purpose is then "smoke", and it
never enters the fit.
"""

from __future__ import annotations

from dataclasses import replace

from hptransfer.core.attempts import reset_trial
from hptransfer.core.records import CANCELLED, FAILED, SMOKE, SWEEP, Outcome, Scale, Trial, short
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.summary import DriverSummary
from hptransfer.planning.plan import Plan
from hptransfer.planning.search_space import Point
from hptransfer.planning.trial_set import TrialSet, search_bounds
from hptransfer.session.session import Session


def run_smoke_trial(open_session: Session) -> DriverSummary | None:
    """Train the smoke trial of a sweep alone.

    Returns:
        Its summary. None if it is not needed: the runner trains no code of the user's, or a trial has trained before.
    """
    plan, folder = open_session.plan, open_session.folder
    if not plan.runner.needs_smoke_trial(plan.config.run):
        return None
    smoke_plan, trial_set = smoke_trial_set(plan)
    if folder.has_result(SWEEP) or _has_trained(folder, trial_set):
        return None
    _reset_failed(folder, trial_set)
    short_of = ", ".join(f"{name}={value}" for name, value in (plan.config.run.get("smoke") or {}).items())
    open_session.note(
        f"a smoke trial runs alone first, at {trial_set.scales[0].name}" + (f" with {short_of}" if short_of else "")
    )
    summary = replace(open_session, plan=smoke_plan).train(trial_set)
    for trial in folder.each_trial():
        outcome = folder.read_outcome(trial.id) if trial_set.includes(trial) else None
        if outcome is not None and outcome.state != FAILED:
            loss = "" if outcome.loss is None else f" with loss {short(outcome.loss)}"
            open_session.note(f"the smoke trial is {outcome.state} at step {outcome.steps}{loss}; all others follow")
    return summary


def smoke_trial_set(plan: Plan) -> tuple[Plan, TrialSet]:
    """Return the smoke trial of a sweep, and its plan."""
    shortened = bool(plan.config.run.get("smoke"))
    smoke_plan = replace(plan, seeds=plan.seeds[:1], shortened=shortened)
    scale = cheapest_scale(plan)
    purpose = SMOKE if shortened else SWEEP
    if plan.config.sampler.points and not shortened:  # the first point that the sampler proposes
        return smoke_plan, TrialSet(purpose, {scale: ()}, 1, search_bounds(plan))
    trial = first_trial(smoke_plan, purpose)
    bounds = [replace(bound, extend=0) for bound in search_bounds(plan)]
    return smoke_plan, TrialSet(purpose, {scale: [middle_point(plan)]}, 0, bounds, only=frozenset({trial.id}))


def beginning(plan: Plan) -> dict[str, Trial]:
    """Return the trials with which a sweep begins, by their descriptions."""
    if not plan.runner.needs_smoke_trial(plan.config.run):
        return {"first trial": first_trial(plan)}
    if not plan.config.run.get("smoke"):
        return {"first trial, which runs alone": first_trial(plan)}
    smoke_plan, _ = smoke_trial_set(plan)
    return {"smoke trial, which runs alone": first_trial(smoke_plan, SMOKE), "first trial": first_trial(plan)}


def first_trial(plan: Plan, purpose: str = SWEEP) -> Trial:
    """Return the trial of the middle value at the cheapest scale."""
    return plan.trial(
        cheapest_scale(plan), dict(zip(plan.tuned, middle_point(plan), strict=True)), plan.seeds[0], purpose
    )


def cheapest_scale(plan: Plan) -> Scale:
    """Return the scale whose trials cost least."""
    return min(plan.scales, key=lambda scale: plan.sizes[scale].flops)


def middle_point(plan: Plan) -> Point:
    """Return the middle of the points that every scale tries."""
    points = sorted(plan.points)
    return points[len(points) // 2]


def _has_trained(folder: RunFolder, trial_set: TrialSet) -> bool:
    """Test if a shortened smoke trial has passed before."""
    outcomes = [folder.read_outcome(trial_id) for trial_id in trial_set.only or ()]
    return any(outcome is not None and outcome.state != FAILED for outcome in outcomes)


def _reset_failed(folder: RunFolder, trial_set: TrialSet) -> None:
    """Reset a smoke trial that failed; the cause may be corrected."""
    for trial in folder.each_trial():
        outcome = folder.read_outcome(trial.id) if trial_set.includes(trial) else None
        if outcome is not None and outcome.state == FAILED and outcome.cause != CANCELLED:
            reset_trial(folder, trial.id, outcome, forgive=True)


def failed_trial(open_session: Session) -> tuple[Trial, Outcome] | None:
    """Return the smoke trial if it failed or was cancelled."""
    _, trial_set = smoke_trial_set(open_session.plan)
    for trial in open_session.folder.each_trial():
        outcome = open_session.folder.read_outcome(trial.id) if trial_set.includes(trial) else None
        if outcome is not None and outcome.state == FAILED:
            return trial, outcome
    return None
