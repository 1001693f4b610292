"""Equal failures in one line, with their number and an example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hptransfer.core.records import Outcome, Trial

# The code or signal by which a process ended tells faults apart.
NUMBER = re.compile(r"(?<!code )(?<!signal )(?<![\d.])\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
MOST_REASONS = 5


def reason_key(trial: Trial, error: str) -> str:
    """Return an error's text without numbers and the trial's id.

    Trials of one fault differ in the path of their folder, their width or their rate.
    """
    return NUMBER.sub("#", error.replace(trial.id, "TRIAL"))


def explain_failures(failures: Sequence[tuple[Trial, Outcome]]) -> Iterator[str]:
    """Yield one line for each distinct failure, the most frequent first."""
    groups: dict[str, list[tuple[Trial, Outcome]]] = {}
    for trial, outcome in failures:
        groups.setdefault(reason_key(trial, outcome.error or ""), []).append((trial, outcome))
    ordered = sorted(groups.values(), key=len, reverse=True)
    for group in ordered[:MOST_REASONS]:
        trial, outcome = group[0]
        example = f"{trial.id} {trial.name}"
        yield (
            f"failed: {example}: {outcome.error}"
            if len(group) == 1
            else f"failed: {len(group)} trials: {outcome.error}; such as {example}"
        )
    if others := ordered[MOST_REASONS:]:
        trials = sum(map(len, others))
        yield f"failed: {trials} trials for {len(others)} other reasons; `hptransfer status RUN` shows them"
