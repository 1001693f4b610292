"""Summary of a driver's run."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.core.records import Scale, short
from hptransfer.driver.checks.repeated_failures import RepeatedFailure
from hptransfer.driver.driver_state import PILOT_FAILED
from hptransfer.driver.progress import Progress
from hptransfer.driver.scheduler import Scheduler
from hptransfer.driver.trial_index import ScaleState, TrialIndex
from hptransfer.planning.search_space import loosely_bracketed, unbracketed_edges
from hptransfer.planning.trial_set import TrialSet


@dataclass
class DriverSummary:
    """State of a trial set when its driver ended.

    Attributes:
        missing: trials that were not run, one line for each scale.
        unbracketed: scales whose best value is still at an edge.
        loose: scales whose best value has a worse one on each side, one of which tells little.
        waiting_for_pilot: scales whose pilot trial failed, so that their other trials wait.
        stopped_by: equal failures that stopped the sweep; None if none did.
    """

    progress: Progress
    missing: list[str] = field(default_factory=list)
    unbracketed: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    waiting_for_pilot: list[str] = field(default_factory=list)
    stopped_by: RepeatedFailure | None = None


def summarize(
    progress: Progress,
    *,
    trial_set: TrialSet,
    num_seeds: int,
    index: TrialIndex,
    scheduler: Scheduler,
    stopped_by: RepeatedFailure | None,
) -> DriverSummary:
    """Return the summary of a trial set after its last tick."""
    failed_pilots = scheduler.scales_with_failed_pilot()
    waiting = [f"{scale.key}: {PILOT_FAILED}" for scale in failed_pilots]
    summary = DriverSummary(progress, waiting_for_pilot=waiting, stopped_by=stopped_by)
    for scale, state in index.scales.items():
        if scale in failed_pilots:
            continue
        if num_trials := _num_missing(trial_set, state, num_seeds):
            summary.missing.append(f"{scale.key}: {num_trials} trials not run")
            continue
        for find, lines in ((unbracketed_edges, summary.unbracketed), (loosely_bracketed, summary.loose)):
            if edges := find(state.mean_losses(), trial_set.bounds):
                _add_edge(summary, lines, scale, f"{scale.key}: {', '.join(edges)}", trial_set, state, scheduler)
    return summary


def _num_missing(trial_set: TrialSet, state: ScaleState, num_seeds: int) -> int:
    """Number of a scale's trials without an outcome.

    It includes trials that a sampler was still to propose.
    """
    proposes = trial_set.sampled and not state.closed
    points = max(0, trial_set.num_points - len(state.points)) if proposes else 0
    return len(state.waiting) + state.open + points * num_seeds


def _add_edge(
    summary: DriverSummary,
    lines: list[str],
    scale: Scale,
    edge: str,
    trial_set: TrialSet,
    state: ScaleState,
    scheduler: Scheduler,
) -> None:
    """Add a scale that is not well bracketed to the lines.

    The line names the point that was to be next, or the reason why there is none.
    """
    extends = not trial_set.sampled and not state.closed
    if extends and (point := scheduler.extension(scale)) is not None:
        summary.missing.append(f"{edge}; {', '.join(map(short, point))} was to be next")
    else:
        lines.append(f"{edge}; {scheduler.why_no_extension(scale)}")
