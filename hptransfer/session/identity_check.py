"""Identity of a run folder: equal, accepted as changed, or refused.

The files of a script's command are copied to versions/<fingerprint>/, so that a later start can show a change.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hptransfer.config import sweep as sweep_config
from hptransfer.core.errors import RunFolderError
from hptransfer.core.io import file_name, read_json, write_json, write_text
from hptransfer.core.locks import locked_by
from hptransfer.core.records import SWEEP, VERIFY
from hptransfer.core.redaction import hidden, read_values, without_literals
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.identity import differences, identity
from hptransfer.planning.plan import Plan

# A larger file of a command is data rather than code, and no difference of it is shown.
MAX_COPIED_BYTES = 1_000_000
MAX_DIFF_LINES = 40
EARLIER = "earlier_fingerprints"


def settle_identity(folder: RunFolder, plan: Plan, *, accept_changed: bool) -> None:
    """Check a plan against its folder, and record an accepted change.

    A folder in which nothing has trained takes any change: its trials are set aside in earlier/. The caller holds the
    driver's lock.

    Raises:
        RunFolderError: the folder belongs to another sweep, or to another version of the script.
    """
    if not folder.target.exists() or not folder.sweep.exists():
        return
    if not _changes(folder, plan):
        return
    if _is_empty(folder):
        set_aside(folder)
        return
    refuse_other_identity(folder, plan, accept_changed=accept_changed)
    stored = read_json(folder.target, "fingerprint")
    trained = sum(folder.outcome_path(trial.id).exists() for trial in folder.each_trial())
    earlier = {"fingerprint": stored["fingerprint"], "until": time.time(), "trials": trained}
    write_json(folder.target, _described(plan, [*stored.get(EARLIER, []), earlier]))


def refuse_other_identity(folder: RunFolder, plan: Plan, *, accept_changed: bool) -> None:
    """Check an identity without writing anything.

    Raises:
        RunFolderError: the folder belongs to another sweep, or to another version of the script.
    """
    if not folder.target.exists() or not folder.sweep.exists():
        return
    changes = _changes(folder, plan)
    if not changes or _is_empty(folder):
        return
    source = plan.runner.fingerprint_source(plan.config.run)
    if any(not change.startswith(f"{source} is ") for change in changes):
        stored = sweep_config.load_sweep(folder)
        changes += [
            f"the variable {name} has changed"
            for name, value in stored.variables.items()
            if plan.config.variables.get(name, value) != value
        ]
        raise RunFolderError(
            f"{folder.path} belongs to another sweep: {'; '.join(changes)}; choose another name=NAME "
            "(nothing was changed)"
        )
    if not accept_changed:
        table = folder.path / "records.csv"
        error = RunFolderError(
            f"{folder.path} belongs to another sweep: {source} has changed; --accept-changed goes on with this "
            f"version, and every prediction names both; `hptransfer import SWEEP {table} name=NEW` keeps the trials "
            "under another name; name=NEW alone trains them again (nothing was changed)"
        )
        error.details = _shown_difference(folder, plan)
        raise error


def _changes(folder: RunFolder, plan: Plan) -> list[str]:
    """Return a line for each difference of the identities."""
    stored, target = sweep_config.load_sweep(folder), read_json(folder.target, "fingerprint")
    fingerprint = plan.fingerprint
    if "files" not in target and target["fingerprint"] == plan.runner.earlier_fingerprint(plan.run(plan.target)):
        fingerprint = target["fingerprint"]  # a version before this one hashed fewer files
    return differences(identity(stored, target["fingerprint"]), identity(plan.config, fingerprint))


def _is_empty(folder: RunFolder) -> bool:
    """Test if nothing has trained in a folder, and nothing trains now."""
    if folder.has_result(SWEEP) or folder.has_result(VERIFY):
        return False
    return not any(locked_by(folder.lease(trial.id)) for trial in folder.each_trial())


def set_aside(folder: RunFolder) -> None:
    """Move trials and jobs of a folder to a new folder earlier/<n>/."""
    numbers = [int(path.name) for path in (folder.path / "earlier").glob("*") if path.name.isdecimal()]
    place = folder.path / "earlier" / str(max(numbers, default=0) + 1)
    place.mkdir(parents=True)
    for path in (folder.path / "trials", folder.jobs, folder.path / "finished.jsonl"):
        if path.exists():
            path.rename(place / path.name)
    (folder.path / "trials").mkdir(exist_ok=True)
    folder.jobs.mkdir(exist_ok=True)


def write_target(folder: RunFolder, plan: Plan) -> None:
    """Write target.json with accepted fingerprints, and copies of the command's files."""
    earlier = read_json(folder.target).get(EARLIER, []) if folder.target.exists() else []
    write_json(folder.target, _described(plan, earlier))
    place = folder.path / "versions" / plan.fingerprint
    for argument, path in plan.runner.identity_files(plan.run(plan.target)).items():
        copy = place / file_name(argument)
        text = _text(path, plan)
        if text is not None and not copy.exists():
            place.mkdir(parents=True, exist_ok=True)
            write_text(copy, text)


def _described(plan: Plan, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    files = list(plan.runner.identity_files(plan.run(plan.target)))
    return {**plan.target_json(), "files": files, **({EARLIER: list(earlier)} if earlier else {})}


def _text(path: Path, plan: Plan) -> str | None:
    """Return a file's text without secrets; None if it is data."""
    try:
        if path.stat().st_size > MAX_COPIED_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return without_literals(hidden(text, read_values(sweep_config.dump_sweep(plan.config))))


def _shown_difference(folder: RunFolder, plan: Plan) -> list[str]:
    """Return the lines in which the command's files have changed."""
    place = folder.path / "versions" / str(read_json(folder.target)["fingerprint"])
    lines: list[str] = []
    for argument, path in plan.runner.identity_files(plan.run(plan.target)).items():
        copy, text = place / file_name(argument), _text(path, plan)
        if not copy.is_file() or text is None:
            lines.append(f"{argument}: no text of its earlier content is kept, so no difference can be shown")
            continue
        earlier = copy.read_text(encoding="utf-8").splitlines()
        lines += difflib.unified_diff(
            earlier, text.splitlines(), f"{argument} there", f"{argument} here", "", "", 1, ""
        )
    if len(lines) > MAX_DIFF_LINES:
        lines = [*lines[:MAX_DIFF_LINES], f"... and {len(lines) - MAX_DIFF_LINES} lines more"]
    return lines
