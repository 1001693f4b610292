"""Retry rules: the delay before another attempt, by cause."""

from __future__ import annotations

from hptransfer.config.retry import MAX_DELAY_S, RetryConfig
from hptransfer.core.attempts import History


def delay_before_next(history: History, retry: RetryConfig, max_attempts: int) -> float | None:
    """Return the seconds until another attempt; None if the rule allows none."""
    cause = history.attempts[-1].cause
    if cause is None:
        return 0.0
    rule = retry.rule(cause)
    counted = history.counted(cause, progress=rule.progress)
    if counted >= (max_attempts if rule.attempts is None else rule.attempts):
        return None
    return float(min(rule.delay_s * rule.growth ** max(0, counted - 1), MAX_DELAY_S))
