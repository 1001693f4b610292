"""Every error that a user is meant to read, and the exit codes of the command line.

    HptransferError
    |-- ConfigError     a sweep, option or value that breaks a rule; nothing was written   exit 2
    |-- DataError       training or validation data missing or unusable                    exit 2
    |-- FitError        outcomes from which no law can be fitted                           exit 6
    |-- RunFolderError  a run folder that is missing, of another identity or unwritable    exit 2
    `-- StoppedError    the machine stopped the run: disk full, driver already running     exit 5

A message is one line: the place, the value, the rule, the way out.

The worker of a job (`python -m hptransfer.worker RUN JOB ATTEMPT`) ends with 0 when every trial has an outcome
and none failed, 3 when some failed, 5 when the machine would not let it go on, 2 when the job's file names another
attempt, and 75 when it was asked to stop: the same attempt, or the next one, goes on from its checkpoint.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_TRIALS_FAILED = 3
EXIT_BUDGET_SPENT = 4
EXIT_STOPPED = 5
EXIT_NO_LAW = 6
EXIT_UNFINISHED = 75
EXIT_INTERRUPTED = 130


class HptransferError(Exception):
    """Base of all errors that are reported as one line, without a traceback."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(HptransferError):
    """A sweep, option or value that breaks a rule."""


class DataError(HptransferError):
    """Training or validation data that is missing or unusable."""


class FitError(HptransferError):
    """Outcomes from which no law can be fitted."""

    exit_code = EXIT_NO_LAW


class RunFolderError(HptransferError):
    """A run folder that is missing, belongs to another sweep, or cannot be written."""


class StoppedError(HptransferError):
    """The machine stopped the run; what was finished is kept, and the same command goes on."""

    exit_code = EXIT_STOPPED


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """Training was asked to stop, and has saved what it needs to go on.

    Attributes:
        cause: one of records.CAUSES.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Superseded(Exception):  # noqa: N818
    """Another attempt of the same job has taken over; this one writes nothing any more."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line that says that `name` is no `kind`, which name is nearest, and which there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}"


def divisors(number: int, value: int) -> str:
    """The divisors of number next to value, on both sides."""
    found = [one for one in range(1, number + 1) if number % one == 0]
    below, above = [one for one in found if one < value], [one for one in found if one > value]
    return " or ".join(str(one) for one in below[-1:] + above[:1])


def multiples(value: int, step: int) -> str:
    """The multiples of step next to value, on both sides; no 0."""
    below = value // step * step
    return " or ".join(str(one) for one in (below, below + step) if one)
