"""Estimated training time of a plan."""

from __future__ import annotations

from statistics import fmean

from hptransfer.core.records import DONE, Scale, digest
from hptransfer.planning.plan import Plan


def seconds_by_scale(plan: Plan) -> dict[Scale, float | None]:
    """Estimate the seconds of one trial at each scale and target.

    A few steps are measured. A shape whose steps are too long for that is assumed to be as fast as the largest one
    that was measured. A script's estimate comes from the finished trials of the run folder; None without any.
    """
    threads = plan.config.launcher.num_threads()
    rates: dict[str, float | None] = {}
    rate: float | None = None
    seconds: dict[Scale, float | None] = {}
    for scale in sorted((*plan.scales, plan.target), key=lambda scale: plan.sizes[scale].params):
        run = plan.run(scale)
        shape = digest([run.get("model"), run.get("batch"), run.get("sequence")])
        if shape not in rates:
            rates[shape] = plan.runner.flops_rate(run, threads) or rate
        rate = rates[shape]
        seconds[scale] = plan.sizes[scale].flops / rate if rate else None
    return seconds if rate else _finished_seconds(plan)


def _finished_seconds(plan: Plan) -> dict[Scale, float | None]:
    """Return the mean seconds of finished trials of each scale.

    A scale without finished trials is estimated from its FLOPs, at the rate of the largest finished trial.
    """
    finished: dict[Scale, list[float]] = {}
    rates: list[tuple[float, float]] = []
    for trial in plan.config.folder.read_trials():
        outcome = plan.config.folder.read_outcome(trial.id)
        if outcome and outcome.state == DONE and outcome.seconds > 0:
            finished.setdefault(trial.scale, []).append(outcome.seconds)
            rates.append((trial.flops, trial.flops / outcome.seconds))
    rate = max(rates)[1] if rates else None
    scales = (*plan.scales, plan.target)
    guesses = {scale: plan.sizes[scale].flops / rate if rate else None for scale in scales}
    return guesses | {scale: fmean(finished[scale]) for scale in scales if scale in finished}
