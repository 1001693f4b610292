"""Hooks: a command or a web address that is told how a sweep ended, or that it needs a person."""

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
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.progress import Progress

EVENTS = {EXIT_DONE: EVENT_DONE, EXIT_BUDGET_SPENT: EVENT_BLOCKED, EXIT_STOPPED: EVENT_BLOCKED}


def notify(hooks: HooksConfig, event: str, facts: Mapping[str, Any]) -> str | None:
    """Run the hook of an event, if it has one; return what went wrong, in one line."""
    hook = getattr(hooks, event)
    if hook is None:
        return None
    facts = {"event": event, **facts}
    try:
        _post(hook, facts, hooks.timeout_s) if isinstance(hook, str) else _call(hook, facts, hooks.timeout_s)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"hooks.{event} failed ({_reason(error)}); the sweep itself is as it was"
    return None


def _reason(error: Exception) -> str:
    """Never the address, which may hold a secret."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or "").strip().splitlines()
        return f"it ended with exit code {error.returncode}" + (f": {said[-1]}" if said else "")
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
    import urllib.request  # as slow to import as all else here together

    body = json.dumps(facts).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=timeout_s).close()


class Announcer:
    """Tells the hooks of one run what happens to it.

    Attributes:
        code: the exit code that it is about to end with.
        reason: one line about that.
    """

    def __init__(self, hooks: HooksConfig, folder: RunFolder, warn: Callable[[str], None]) -> None:
        self.code = EXIT_DONE
        self.reason = ""
        self.progress: Progress | None = None
        self._hooks, self._folder, self._warn = hooks, folder, warn

    def blocked(self, why: str, progress: Progress) -> None:
        """Nothing goes on without a person."""
        self.progress = progress
        self._tell(EVENT_BLOCKED, None, why)

    def end(self, code: int, reason: str) -> None:
        self._tell(EVENTS.get(code, EVENT_FAILED), code, reason)

    def _tell(self, event: str, code: int | None, reason: str) -> None:
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
    """Tells a run's hooks how the block ended; an interruption is the user's own and is told to nobody."""
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
