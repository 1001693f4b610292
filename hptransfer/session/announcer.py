"""Notifications by command or web request when a sweep ends or blocks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hptransfer.config.notifications import EVENT_BLOCKED, EVENT_DONE, EVENT_FAILED, HooksConfig
from hptransfer.core.errors import (
    EXIT_BUDGET_SPENT,
    EXIT_BUG,
    EXIT_DONE,
    EXIT_STOPPED,
    EXIT_TRIALS_FAILED,
    HptransferError,
)
from hptransfer.core.redaction import hidden, read_values
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.progress import Progress

EVENTS = {EXIT_DONE: EVENT_DONE, EXIT_BUDGET_SPENT: EVENT_BLOCKED, EXIT_STOPPED: EVENT_BLOCKED}


def notify(hooks: HooksConfig, event: str, facts: Mapping[str, Any]) -> str | None:
    """Run the hook of an event; return its failure in one line.

    Args:
        event: one of EVENT_DONE, EVENT_FAILED and EVENT_BLOCKED.
        facts: JSON values for the hook.
    """
    if getattr(hooks, event) is None:
        return None
    hook = getattr(hooks.with_secrets("hooks"), event)
    facts = {"event": event, **facts}
    try:
        _post(hook, facts, hooks.timeout_s) if isinstance(hook, str) else _call(hook, facts, hooks.timeout_s)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = hidden(_reason(error), read_values(str(getattr(hooks, event))))
        return f"hooks.{event} failed ({reason}); the sweep itself is not affected"
    return None


def _reason(error: Exception) -> str:
    """Return the reason of a failure without the address.

    The address may hold a secret.
    """
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or "").strip().splitlines()
        return f"it ended with exit code {error.returncode}" + (f": {lines[-1]}" if lines else "")
    if isinstance(error, urllib.error.HTTPError):
        return f"its server answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _call(command: list[Any], facts: Mapping[str, Any], timeout_s: float) -> None:
    plain = {key: value for key, value in facts.items() if not isinstance(value, Mapping)}
    plain |= {f"trials_{state}": count for state, count in facts["trials"].items()}
    environment = {f"HPTRANSFER_{key.upper()}": "" if value is None else str(value) for key, value in plain.items()}
    subprocess.run(
        [str(word) for word in command],
        input=json.dumps(facts),
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=timeout_s,
        check=True,
    )


def _post(address: str, facts: Mapping[str, Any], timeout_s: float) -> None:
    import urllib.request  # slow to import

    body = json.dumps(facts).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=timeout_s).close()


class Announcer:
    """Sender of one run's notifications.

    Attributes:
        code: exit code that the run is about to end with.
        reason: one line about it.
        progress: progress of the run when it was last known.
    """

    def __init__(self, hooks: HooksConfig, folder: RunFolder, warn: Callable[[str], None]) -> None:
        self.code = EXIT_DONE
        self.reason = ""
        self.progress: Progress | None = None
        self._hooks, self._folder, self._warn = hooks, folder, warn

    def blocked(self, why: str, progress: Progress) -> None:
        """Notify that the run cannot continue without intervention."""
        self.progress = progress
        self._notify(EVENT_BLOCKED, None, why)

    def end(self, code: int, reason: str) -> None:
        """Notify that the run has ended."""
        self._notify(EVENTS.get(code, EVENT_FAILED), code, reason)

    def _notify(self, event: str, code: int | None, reason: str) -> None:
        facts = {
            "run": self._folder.path.name,
            "folder": str(self._folder.path.absolute()),
            "reason": reason,
            "exit_code": code,
            "time": time.time(),
            "trials": self.progress.counts() if self.progress else {},
            "report": str(self._folder.report.absolute()) if self._folder.report.exists() else None,
        }
        if problem := notify(self._hooks, event, facts):
            self._warn(problem)


@contextlib.contextmanager
def announcing(hooks: HooksConfig, folder: RunFolder, warn: Callable[[str], None]) -> Iterator[Announcer]:
    """Notify a run's hooks of the block's end.

    An interruption is the user's own and notifies no hook.
    """
    announcer = Announcer(hooks, folder, warn)
    try:
        yield announcer
    except HptransferError as error:
        announcer.end(error.exit_code, str(error))
        raise
    except Exception as error:
        announcer.end(EXIT_BUG, f"{type(error).__name__}: {error}")
        raise
    announcer.end(announcer.code, announcer.reason or ("" if announcer.code != EXIT_TRIALS_FAILED else "trials failed"))
