"""Errors that users read as one line, and the exit codes.

    HptransferError
    |-- ConfigError     a sweep, option or value that breaks a rule; nothing was written   exit 2
    |-- DataError       training or validation data missing or unusable                    exit 2
    |-- FitError        outcomes from which no law can be fitted                           exit 6
    |-- RunFolderError  a run folder that is missing, of another identity or unwritable    exit 2
    `-- StoppedError    the machine stopped the run: disk full, driver already running     exit 5

A message is one line with the place, the value, the rule and the way out.

Exit codes of a job's worker (`python -m hptransfer.worker RUN JOB ATTEMPT`):

    0   every trial has an outcome, and none failed
    2   the job's file names another attempt
    3   some trials failed
    5   the machine stopped the worker
    75  the worker was asked to stop; the same attempt, or the next one, resumes from its checkpoint
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

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

MOST_KNOWN, NAMES_IN_MESSAGE = 40, 6
"""Number of known names that a message lists in full, and the number that it lists of more."""
MOST_COMPARED = 2_000
# Likeness, from 0 to 1, above which a name is listed, and that of a name that contains the other as a word.
ALIKE, CONTAINED = 0.6, 0.8
# Separators of the parts of a name, and of its words.
NAME_PART, NAME_WORD = re.compile(r"[./:\s]+"), re.compile(r"[^a-z0-9]+")

COLOUR = re.compile(r"\x1b\[[\d;]*m")
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, and of the user's limits of what is written to it."""


class HptransferError(Exception):
    """Base of errors that are reported as one line, without a traceback.

    Attributes:
        warnings: of the input, known before the error; they are printed first, a line each.
        details: lines that show the fault, such as a difference of files; they are printed before the message.
    """

    exit_code = EXIT_BAD_INPUT
    warnings: Sequence[str] = ()
    details: Sequence[str] = ()


class ConfigError(HptransferError):
    """A sweep, option or value that breaks a rule."""


class DataError(HptransferError):
    """Training or validation data that is missing or unusable."""


class FitError(HptransferError):
    """Outcomes from which no law can be fitted.

    Attributes:
        note: text that is added to the message, such as on runs of several experiments in one table.
    """

    exit_code = EXIT_NO_LAW
    note = ""

    def __str__(self) -> str:
        return super().__str__() + self.note


class RunFolderError(HptransferError):
    """A run folder that is missing, another sweep's, or not writable."""


class StoppedError(HptransferError):
    """The machine stopped the run; the same command resumes it."""

    exit_code = EXIT_STOPPED


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Training was asked to stop, and has saved a checkpoint.

    Attributes:
        cause: one of records.CAUSES.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Superseded(Exception):  # noqa: N818
    """Another attempt of the job has started; this one must stop writing."""


def printable(text: str) -> str:
    """Return a text without control characters, which could rewrite the user's terminal.

    Colours are removed, and all but tabs are shown as escapes, such as \\x1b for the start of a command.
    """
    shown = (
        character if character.isprintable() or character == "\t" else character.encode("unicode_escape").decode()
        for character in COLOUR.sub("", text)
    )
    return "".join(shown)


def print_error(text: str) -> None:
    """Print one line to standard error.

    Where it cannot be written, as on a full disk, the line alone is lost.
    """
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def exit_with(code: int) -> NoReturn:
    """End the process with an exit code.

    Python would end with 120 where the last output cannot be written, as on a full disk.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def unknown(kind: str, name: str, known: Iterable[str], most: int = MOST_KNOWN) -> str:
    """Return the message for an unknown name, with the known names.

    Args:
        most: number of known names above which at most NAMES_IN_MESSAGE are listed: those like the unknown
            one, else the first ones.
    """
    names = sorted(known)
    similar = _alike(name, names)
    proposed = nearest(name, names)
    hint = f" Did you mean {proposed!r}?" if proposed else ""
    if len(names) > most:
        listed = list(dict.fromkeys([*filter(None, [proposed]), *similar])) or names
        listed = listed[:NAMES_IN_MESSAGE]
        return f"unknown {kind} {name!r}.{hint} Known: {', '.join(listed)} and {len(names) - len(listed)} more"
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}"


def nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the known name that is likely meant, or None."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or _alike(name, names)
    return close[0] if close else None


def _alike(name: str, names: Sequence[str]) -> list[str]:
    """Return the names that are like a name, the nearest first.

    A name counts by its last part too, such as `lr` of optim.lr, and as longer form of the other, such as val_loss.
    """
    wanted = name.lower()
    scores = {
        other: max(
            difflib.SequenceMatcher(None, wanted, other.lower()).ratio(),
            difflib.SequenceMatcher(None, wanted, NAME_PART.split(other.lower())[-1]).ratio(),
            CONTAINED * (len(wanted) > 1 and wanted in NAME_WORD.split(other.lower())),
        )
        for other in names[:MOST_COMPARED]
    }
    return sorted((other for other in names[:MOST_COMPARED] if scores[other] > ALIKE), key=lambda other: -scores[other])


def divisors(number: int, value: int) -> str:
    """Return the divisors of a number next to a value, as text."""
    all_divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    below = [divisor for divisor in all_divisors if divisor < value]
    above = [divisor for divisor in all_divisors if divisor > value]
    return " or ".join(str(divisor) for divisor in below[-1:] + above[:1])


def multiples(value: int, step: int) -> str:
    """Return the multiples of a step next to a value, as text.

    A multiple of 0 is left out.
    """
    below = value // step * step
    return " or ".join(str(multiple) for multiple in (below, below + step) if multiple)
