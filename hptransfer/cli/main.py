"""Command line: the table of verbs, parsing, errors and exit codes.

Each group of verbs has a module of its own in this folder, which imports what a verb needs when the verb is called.
Help, list, status, trials, logs, export and analyze never import PyTorch; help and list import nothing slow.
"""

from __future__ import annotations

import argparse
import errno
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from hptransfer import __version__
from hptransfer.cli import analyze, coord_check, runs, start, sweeps, try_trial
from hptransfer.core.errors import (
    DISK_FULL,
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    ConfigError,
    HptransferError,
    exit_with,
    print_error,
    unknown,
)
from hptransfer.core.redaction import redacted

EPILOG = """\
SWEEP is a name in sweeps/ or a path to a YAML file; overrides are KEY=VALUE, such as
run.parameterization=sp name=quickstart-sp. RUN is a run's folder, or its name under runs/.

exit codes: 0 done; 1 a bug, or a check that failed; 2 bad input, nothing was written; 3 trials failed;
4 the budget was spent first; 5 stopped by the machine or another driver; 6 no law could be
fitted; 75 a job's worker was asked to stop; 130 interrupted. After 3, 4, 5 and 130 the same
command resumes where it stopped; a check restarts."""

# A value, such as a list of thousands, may be longer than a line that people read.
LONGEST_MESSAGE, START, END = 2000, 700, 1200

VERBS = {
    "plan": sweeps.PLAN_VERB,
    "try": try_trial.TRY_VERB,
    "sweep": sweeps.SWEEP_VERB,
    "status": runs.STATUS_VERB,
    "trials": runs.TRIALS_VERB,
    "cancel": runs.CANCEL_VERB,
    "retry": runs.RETRY_VERB,
    "analyze": analyze.ANALYZE_VERB,
    "verify": sweeps.VERIFY_VERB,
    "coord-check": coord_check.COORD_CHECK_VERB,
    "logs": runs.LOGS_VERB,
    "export": runs.EXPORT_VERB,
    "clean": runs.CLEAN_VERB,
    "init": start.INIT_VERB,
    "import": start.IMPORT_VERB,
    "list": start.LIST_VERB,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `hptransfer` command and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run(arguments)
    except HptransferError as error:
        for warning in error.warnings:
            print_error(f"warning: {_shortened(redacted(warning))}")
        for line in error.details:
            print_error(_shortened(redacted(line)))
        print_error(f"hptransfer: {_shortened(redacted(str(error)))}")
        code = error.exit_code
    except KeyboardInterrupt:
        print_error(f"hptransfer: interrupted; {_state_after_interrupt(arguments)}")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output (head, for example) has closed it
        code = EXIT_DONE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            print_error(
                f"hptransfer: stopped: writing {error.filename or 'the output'} failed ({error.strerror}); "
                "finished trials are kept: make room, then run the same command again"
            )
            code = EXIT_STOPPED
        elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print_error(f"hptransfer: {_shortened(str(error.filename))} is too long for a file; correct it")
            code = EXIT_BAD_INPUT
        elif isinstance(error, IsADirectoryError):
            print_error(
                f"hptransfer: {error.filename2 or error.filename} is a folder in the place of a file; move it away"
            )
            code = EXIT_BAD_INPUT
        else:  # a bug: print the traceback as Python does, but without passwords
            print(redacted(traceback.format_exc()), file=sys.stderr, end="")
            code = EXIT_BUG
    exit_with(code)


def _shortened(message: str) -> str:
    """Return a message without the middle of a very long value."""
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:START]} ... {message[-END:]}"


class _Parser(argparse.ArgumentParser):
    """Parser that reports errors as one line, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (-\S+)", message):
            message = unknown("option", match.group(1).partition("=")[0], self._option_string_actions)
        message = message.replace(", KEY=VALUE", "").replace(", AXIS=VALUE", "")  # both are optional
        raise ConfigError(f"{self.prog.partition(' ')[2]}: {message}; see `{self.prog} --help`")


def _state_after_interrupt(arguments: list[str]) -> str:
    """Return the note of an interrupted verb about its results."""
    sweep = VERBS["sweep"]
    return VERBS.get(arguments[0], sweep).interrupted if arguments else sweep.interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return EXIT_DONE if arguments else EXIT_BAD_INPUT
    if arguments[0] == "--version":
        print(f"hptransfer {__version__}")
        return EXIT_DONE
    name, *rest = arguments
    if name not in VERBS:
        raise ConfigError(unknown("verb", name, VERBS))
    parser = _Parser(prog=f"hptransfer {name}", description=VERBS[name].summary, epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    VERBS[name].arguments(parser)
    return VERBS[name].run(parser.parse_intermixed_args(rest))


def _help() -> str:
    lines = ["usage: hptransfer VERB [SWEEP | RUN] [overrides] [options]", ""]
    lines += [f"  {name:<11}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "`hptransfer VERB --help` lists a verb's options.", "", EPILOG])


if __name__ == "__main__":
    main()
