"""Retry rules of a sweep file, one for each cause."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.core.errors import ConfigError

MAX_DELAY_S = 1800.0


@dataclass(kw_only=True)
class RetryRule:
    """Rule for attempts that ended by one cause."""

    attempts: int | None = None
    """Attempts that may end by this cause before the trial has failed; null: launcher.max_attempts."""
    delay_s: float = 0.0
    """Seconds until the next attempt, after the first that ended by this cause."""
    growth: float = 1.0
    """Factor on the delay for each further attempt, up to half an hour."""
    progress: bool = False
    """Do not count attempts that got farther than the one before."""

    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""
        if self.attempts is not None and self.attempts < 1:
            raise ConfigError(f"{place}.attempts must be at least 1, got {self.attempts}")
        if not self.delay_s >= 0:
            raise ConfigError(f"{place}.delay_s must be at least 0, got {self.delay_s}")
        if not self.growth >= 1:
            raise ConfigError(f"{place}.growth must be at least 1, got {self.growth}")


@dataclass(kw_only=True)
class RetryConfig:
    """One rule for each cause; cancelled trials wait for `hptransfer retry`."""

    code_error: RetryRule = field(default_factory=lambda: RetryRule(attempts=1))
    out_of_memory: RetryRule = field(default_factory=lambda: RetryRule(attempts=2, delay_s=60))
    time_limit: RetryRule = field(default_factory=lambda: RetryRule(attempts=2, progress=True))
    node_failure: RetryRule = field(default_factory=lambda: RetryRule(delay_s=30, growth=2))
    preempted: RetryRule = field(default_factory=lambda: RetryRule(progress=True))
    killed: RetryRule = field(default_factory=lambda: RetryRule(delay_s=1, growth=4))
    stop_after: int | None = 3
    """Equal failures of trials in a row after which no further trials are started; null: never."""

    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""
        for cause, rule in self._rules().items():
            rule.check(f"{place}.{cause}")
        if self.stop_after is not None and self.stop_after < 1:
            raise ConfigError(
                f"{place}.stop_after must be at least 1, got {self.stop_after}; null goes on however many fail"
            )

    def rule(self, cause: str) -> RetryRule:
        """Return the rule for one of records.CAUSES."""
        return self._rules().get(cause.replace(" ", "_"), RetryRule(attempts=1))

    def _rules(self) -> dict[str, RetryRule]:
        """Rules by cause."""
        return {key: value for key, value in vars(self).items() if isinstance(value, RetryRule)}
