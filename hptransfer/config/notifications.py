"""Notifications of a sweep file: a command or a web address for each event."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from typing import Any

from hptransfer.core.errors import ConfigError

EVENT_DONE, EVENT_FAILED, EVENT_BLOCKED = "done", "failed", "blocked"


@dataclass(kw_only=True)
class HooksConfig:
    """Each a command as a list of arguments (no shell), or an http(s) address to post to; null: none.

    A command gets the facts as JSON on standard input and in the environment as HPTRANSFER_EVENT, HPTRANSFER_RUN,
    HPTRANSFER_REASON and so on; an address gets the same JSON.
    """

    done: Any = None
    """All trials are trained and the answer is there."""
    failed: Any = None
    """The sweep ended otherwise: trials failed, or no law could be fitted."""
    blocked: Any = None
    """Nothing goes on without a person: the budget is spent, the disk is full, or no job is let run."""
    blocked_after_s: float = 1800.0
    """How long all jobs have to wait for a reason that does not pass by itself."""
    timeout_s: float = 30.0
    """For one hook; the sweep waits for it."""

    def check(self, place: str) -> None:
        """Raises ConfigError if a value breaks a rule."""
        for event in (EVENT_DONE, EVENT_FAILED, EVENT_BLOCKED):
            hook = getattr(self, event)
            address = isinstance(hook, str) and urllib.parse.urlsplit(hook)
            good = address and address.scheme in ("http", "https") and address.netloc
            words = hook if isinstance(hook, list) else []
            command = words and all(
                isinstance(word, str | int | float) and not isinstance(word, bool) for word in words
            )
            if hook is not None and not good and not command:
                raise ConfigError(
                    f"{place}.{event} must be a command as a list, such as [notify-send, done], or an address that "
                    f"begins with http:// or https://, got {hook if isinstance(hook, list) else type(hook).__name__}"
                )
        for key in ("blocked_after_s", "timeout_s"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{place}.{key} must be above 0, got {getattr(self, key)}")
