"""Notifications of a sweep file, one for each event."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, replace
from typing import Any

from hptransfer.core.errors import ConfigError
from hptransfer.core.redaction import REFERENCE, read_references

EVENT_DONE, EVENT_FAILED, EVENT_BLOCKED = HOOK_EVENTS = "done", "failed", "blocked"


@dataclass(kw_only=True)
class HooksConfig:
    """Hooks for a sweep that ended or is blocked; null: none.

    Each is a command as a list of arguments, without a shell, or an http(s) address that gets a POST request. Whoever
    knows an address can post there, so it is a reference such as ${oc.env:SWEEP_HOOK}.

    A command gets the facts as JSON on standard input and in the environment as HPTRANSFER_EVENT, HPTRANSFER_RUN,
    HPTRANSFER_REASON and so on; an address gets the same JSON.
    """

    done: Any = None
    """All trials are trained and there is a prediction."""
    failed: Any = None
    """The sweep ended without a full result: trials failed, or no law could be fitted."""
    blocked: Any = None
    """The sweep needs a person: the budget is spent, the disk is full, or no job may run."""
    blocked_after_s: float = 1800.0
    """Seconds that all jobs have to wait for a reason that needs a person."""
    timeout_s: float = 30.0
    """Time limit of one hook; the sweep waits for it."""

    def check(self, place: str) -> None:
        """Raise ConfigError if a value breaks a rule."""
        for event in HOOK_EVENTS:
            hook = getattr(self, event)
            address = isinstance(hook, str) and urllib.parse.urlsplit(hook)
            refers = isinstance(hook, str) and REFERENCE.search(hook)  # checked once it is read
            good = refers or (address and address.scheme in ("http", "https") and address.netloc)
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

    def with_secrets(self, place: str) -> HooksConfig:
        """Return the hooks with their references replaced by values.

        Raises:
            ConfigError: a variable is not set, or its value is not the address of a hook.
        """
        hooks = {event: _read(getattr(self, event), f"{place}.{event}") for event in HOOK_EVENTS}
        read = replace(self, **hooks)
        read.check(place)
        return read


def _read(hook: Any, place: str) -> Any:
    """Return a hook with its references replaced by their values."""
    if isinstance(hook, list):
        return [read_references(str(word), place) for word in hook]
    return read_references(hook, place) if isinstance(hook, str) else hook
