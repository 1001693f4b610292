"""Retry rules of a sweep file: one for each cause of a failed attempt."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.core.errors import ConfigError

MAX_DELAY_S = 1800.0


@dataclass(kw_only=True)
class RetryRule:
    """When an attempt that ended by one cause is followed by another."""

    attempts: int | None = None
    """Attempts that may end so before the trial has failed; null: launcher.max_attempts."""
    delay_s: float = 0.0
    """Seconds until the next one, after the first that ended so."""
    growth: float = 1.0
    """The delay is multiplied by this each further time, up to half an hour."""
    progress: bool = False
    """Attempts that got farther than the one before them are not counted."""

    def check(self, place: str) -> None:
        """Raises ConfigError if a value breaks a rule."""
        if self.attempts is not None and self.attempts < 1:
            raise ConfigError(f"{place}.attempts must be at least 1, got {self.attempts}")
        if not self.delay_s >= 0:
            raise ConfigError(f"{place}.delay_s must be at least 0, got {self.delay_s}")
        if not self.growth >= 1:
            raise ConfigError(f"{place}.growth must be at least 1, got {self.growth}")


@dataclass(kw_only=True)
class RetryConfig:
    """A rule a cause. What was cancelled is trained again only when `hptransfer retry` says so."""

    code_error: RetryRule = field(default_factory=lambda: RetryRule(attempts=1))
    out_of_memory: RetryRule = field(default_factory=lambda: RetryRule(attempts=2, delay_s=60))
    time_limit: RetryRule = field(default_factory=lambda: RetryRule(attempts=2, progress=True))
    node_failure: RetryRule = field(default_factory=lambda: RetryRule(delay_s=30, growth=2))
    preempted: RetryRule = field(default_factory=lambda: RetryRule(progress=True))
    killed: RetryRule = field(default_factory=lambda: RetryRule(delay_s=1, growth=4))

    def check(self, place: str) -> None:
        """Raises ConfigError if a value breaks a rule."""
        for cause, rule in vars(self).items():
            rule.check(f"{place}.{cause}")

    def rule(self, cause: str) -> RetryRule:
        """The rule for one of records.CAUSES."""
        rules: dict[str, RetryRule] = vars(self)
        return rules.get(cause.replace(" ", "_"), RetryRule(attempts=1))
