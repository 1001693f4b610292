"""The verb `coord-check`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from hptransfer.cli.verb import Verb, make_console
from hptransfer.core.errors import EXIT_CHECK_FAILED, EXIT_DONE


def _coord_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as run/model=mlp run/optimizer=lion"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for check.json and check.svg")


def _coord_check(args: argparse.Namespace) -> int:
    from hptransfer.coordcheck.check_config import compose_check, own_settings
    from hptransfer.coordcheck.run import run_check
    from hptransfer.coordcheck.table import coordinate_check_table
    from hptransfer.core.io import writable_folder, write_json, write_text

    config = compose_check(args.overrides)
    with writable_folder(args.out):
        result = run_check(config)
    console = make_console()
    for part in coordinate_check_table(result):
        console.print(part, highlight=False)
    print(
        f"the check's own settings: {' '.join(f'{key}={value}' for key, value in own_settings(args.overrides).items())}"
    )
    expected_slopes = [f"{row.name} {row.prescribed:+g}" for row in result.rows if row.prescribed]
    if expected_slopes:
        print(f"slopes that are not expected to be 0: {', '.join(expected_slopes)}")
    if result.reading:
        print(f"measured only, without pass or fail: {result.reading}")
    elif result.passed:
        print("passed")
    else:
        more = f" and {len(result.fails) - 1} more (*)" if len(result.fails) > 1 else ""
        expected = f"; expected: {result.expected}" if result.expected else ""
        print(f"failed: {result.fails[0]}{more}; the tolerance is {result.tolerance}{expected}")
    if args.out is not None:
        from hptransfer.coordcheck.figure import coordinate_check_figure

        values = dataclasses.asdict(result)
        write_json(args.out / "check.json", values)
        write_text(args.out / "check.svg", coordinate_check_figure(values))
        print(f"written: {args.out / 'check.json'}, {args.out / 'check.svg'}")
    return EXIT_DONE if result.passed else EXIT_CHECK_FAILED


COORD_CHECK_VERB = Verb(
    "check that updates do not scale with width or depth",
    _coord_check_arguments,
    _coord_check,
    interrupted="a check keeps no results, and the same command restarts it",
)
