"""Tables in JSON: every usual form is read, any other is one line that names the forms."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hptransfer.analysis.tables import json_tables
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.sources import TableSource, load_targets, read_table
from hptransfer.analysis.tables.table_checks import check_table
from hptransfer.core.errors import ConfigError
from tests.support.helpers import command

COLUMNS = Columns(scales=("width",), tuned=("lr",))
RECORDS = [
    {"width": width, "lr": 2.0**-k, "loss": 3 + (k - 6) ** 2 / 20 + 10 / width}
    for width in (32, 64, 128)
    for k in range(3, 10)
]
FRAME = pd.DataFrame(RECORDS)
LINES = "".join(json.dumps(row) + "\n" for row in RECORDS)


def read(folder: Path, content: Any, name: str = "runs.json") -> pd.DataFrame:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return check_table(TableSource(path).read(COLUMNS), COLUMNS, name)


def refused(folder: Path, content: Any, name: str = "runs.json") -> str:
    with pytest.raises(ConfigError) as refusal:
        read(folder, content, name)
    message = str(refusal.value)
    assert "\n" not in message
    return message


FORMS: dict[str, tuple[str, Any]] = {
    "lines": ("runs.jsonl", LINES),
    "lines with blank ones": ("runs.ndjson", LINES.replace("\n", "\r\n\n")),
    "lines with a byte order mark": ("runs.jsonl", "\ufeff" + LINES),
    "lines in a .json file": ("runs.json", LINES),
    "a list in a .jsonl file": ("runs.jsonl", RECORDS),
    "a list": ("runs.json", RECORDS),
    "a list of spread lines": ("runs.json", json.dumps(RECORDS, indent=1)),
    "a list under a name": ("runs.json", {"schema": 1, "runs": RECORDS}),
    "named runs": ("runs.json", {f"run-{number}": row for number, row in enumerate(RECORDS)}),
    "columns": ("runs.json", FRAME.to_dict(orient="list")),
    "columns of pandas": ("runs.json", FRAME.to_json()),
    "split": ("runs.json", FRAME.to_json(orient="split")),
    "configuration and summary": (
        "runs.json",
        [
            {
                "name": f"brisk-sun-{number}",
                "state": "finished",
                "config": {"lr": {"value": row["lr"], "desc": None}, "model": {"d": 1}, "width": row["width"]},
                "summary": {"loss": row["loss"], "_wandb": {"runtime": 5}},
            }
            for number, row in enumerate(RECORDS)
        ],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_usual_forms_are_read(tmp_path: Path, form: str) -> None:
    name, content = FORMS[form]
    table = read(tmp_path, content, name)
    pd.testing.assert_frame_equal(table[["width", "lr", "loss"]], FRAME.astype(float))


def test_losses_that_are_not_numbers_diverged(tmp_path: Path) -> None:
    lines = LINES + "".join(
        f'{{"width": 32, "lr": 1.0, "loss": {loss}}}\n' for loss in ("NaN", "Infinity", '"NaN"', '"Infinity"', "null")
    )
    lines += '{"width": 32, "lr": 1.0}\n'
    assert read(tmp_path, lines, "runs.jsonl")["loss"].tolist()[-6:] == [math.inf] * 6


def test_states_and_other_columns_are_read(tmp_path: Path) -> None:
    rows = [{**row, "state": "finished", "betas": [0.9, 0.95]} for row in RECORDS]
    rows[0]["state"] = "crashed"
    table = read(tmp_path, rows)
    assert len(table) == len(RECORDS) - 1
    assert table["betas"].iloc[0] == "[0.9, 0.95]"


def test_targets_and_imports_are_read(tmp_path: Path) -> None:
    path = tmp_path / "targets.jsonl"
    path.write_text('{"width": 512}\n{"width": 1024}\n')
    assert load_targets(path, ("width",))["width"].tolist() == [512, 1024]
    assert read_table(path)["width"].tolist() == [512, 1024]


FORMATS = "JSON is read as one object on each line, a list of objects, an object of columns, or an object of named runs"
REFUSED: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "losses of named runs": (
        "runs.json",
        {"d=64-lr=0.01": 3.1, "d=128-lr=0.01": 2.9},
        ("gives 'd=64-lr=0.01' the number 3.1 alone", FORMATS, 'such as {"width": 64, "lr": 0.01, "loss": 3}'),
    ),
    "a number": ("runs.json", "3", ("holds the number 3", FORMATS)),
    "a list of numbers": ("runs.json", "[3]", ("item 1 must be an object of one run, got the number 3", FORMATS)),
    "no runs": ("runs.json", "[]", ("has no runs", FORMATS)),
    "an empty object": ("runs.json", "{}", ("holds no runs", FORMATS)),
    "nothing": ("runs.jsonl", " \n", ("is empty; a table needs rows",)),
    "a damaged line": (
        "runs.jsonl",
        LINES + '{"width": 32, "lr"',
        ("runs.jsonl: line 22 is not a JSON object (Expecting ':' delimiter at column", "correct the line or leave it"),
    ),
    "a list on a line": ("runs.jsonl", LINES + "[1, 2]\n", ("line 22 must be a JSON object of one run, got a list",)),
    "a damaged document": ("runs.json", json.dumps(RECORDS, indent=1)[:-5], ("line 105 is not valid JSON (Expecting",)),
    "columns of two lengths": ("runs.json", {"width": [1], "lr": [1, 2]}, ("must have the same number of values",)),
    "a short row": ("runs.json", {"columns": ["width", "lr"], "data": [[1]]}, ("must have a value for each name",)),
    "nesting": ("runs.json", "[" * 100_000, ("nested too deeply", FORMATS)),
    "nesting on a line": (
        "runs.jsonl",
        "{}\n" + '{"a":' * 100_000,
        ("line 2 is not a JSON object (nested too deeply)",),
    ),
    "a missing key": ("runs.jsonl", LINES.replace('"lr"', '"rate"'), ("unknown column 'lr'", "loss, rate, width")),
    "JSON under another name": ("runs.csv", LINES, ("runs.csv holds JSON; give it a name that ends with .jsonl",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_forms_are_one_line(tmp_path: Path, case: str) -> None:
    name, content, words = REFUSED[case]
    message = refused(tmp_path, content, name)
    for word in words:
        assert word in message


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_tables, "LARGEST_JSON_TABLE", 1000)
    assert "has more than 1,000 bytes, which is too large for JSON; save it as parquet or CSV" in refused(
        tmp_path, RECORDS
    )
    monkeypatch.setattr(json_tables, "LARGEST_JSON_TABLE", 100_000)
    monkeypatch.setattr(json_tables, "MOST_JSON_COLUMNS", 20)
    assert "different keys" in refused(tmp_path, [{**row, f"key {k}": 1} for k, row in enumerate(RECORDS)])
    monkeypatch.setattr("hptransfer.analysis.tables.table_files.MOST_ROWS", 20)
    assert "has more than 20 rows; keep one row a run, not its curve" in refused(tmp_path, LINES, "runs.jsonl")


def test_numbers_of_many_digits_are_read(tmp_path: Path) -> None:
    table = read(tmp_path, LINES.replace('"width": 32', f'"width": 1{"0" * 25}'), "runs.jsonl")
    assert table["width"].max() == 1e25


def test_the_command_reads_lines(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(LINES)
    (tmp_path / "targets.json").write_text('[{"width": 512}]')
    options = ["--scale", "width", "--tune", "lr", "--targets", "targets.json", "--out", "out"]
    done = command("analyze", "--table", "runs.jsonl", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "recommended lr for width=512: 0.0156" in done.stdout
