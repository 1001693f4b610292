"""Any table in: what is wrong with it is said in one line that names the column and the value."""

import math
import re
from pathlib import Path

import pytest

from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.sources import load_table, load_targets
from hptransfer.core.errors import ConfigError

COLUMNS = Columns(scales=("width",), tuned=("lr",))
GOOD = "width,lr,loss\n64,0.01,2.5\n64,0.02,2.4\n"

BAD = [
    ("", "is empty; a table needs a header and rows"),
    ("width,lr,loss\n", "has no finished run"),
    ("width,lr,los\n64,0.1,2\n", "unknown column 'loss'. Did you mean 'los'? Known: los, lr, width"),
    ("width,lr,loss\nwide,0.1,2\n", "column 'width' must be numbers, got 'wide'"),
    ("width,lr,loss\n64,-0.1,2\n", "column 'lr' must be above 0 and finite, got -0.1"),
    ("width,lr,loss\n64,,2\n", "column 'lr' must be above 0 and finite, got nan"),
    ("width,lr,loss,state\n64,0.1,2,failed\n", "has no finished run"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_table(tmp_path / "runs.csv", COLUMNS)
    assert "\n" not in str(caught.value)
    assert "runs.csv" in str(caught.value)


def test_a_table_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes("größe,lr,loss\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="save it as UTF-8 CSV"):
        load_table(tmp_path / "runs.csv", COLUMNS)


def test_a_missing_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no table 'nowhere.csv'"):
        load_table(Path("nowhere.csv"), COLUMNS)


@pytest.mark.parametrize("loss", ["", "nan", "inf", "1.797e308"])
def test_what_is_no_finite_loss_diverged(tmp_path: Path, loss: str) -> None:
    (tmp_path / "runs.csv").write_text(f"{GOOD}64,0.04,{loss}\n")
    assert list(load_table(tmp_path / "runs.csv", COLUMNS)["loss"]) == [2.5, 2.4, math.inf]


def test_a_state_column_says_which_runs_count(tmp_path: Path) -> None:
    rows = ["64,0.01,2.5,done", "64,0.02,2.0,diverged", "64,0.04,,failed", "64,0.08,,waiting"]
    (tmp_path / "runs.csv").write_text("width,lr,loss,state\n" + "\n".join(rows) + "\n")
    assert list(load_table(tmp_path / "runs.csv", COLUMNS)["loss"]) == [2.5, math.inf]


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(GOOD)
    table = load_table(tmp_path / "runs.csv", COLUMNS)
    table.to_parquet(tmp_path / "runs.parquet")
    assert load_table(tmp_path / "runs.parquet", COLUMNS).equals(table)


@pytest.mark.parametrize(
    ("scales", "tuned", "message"),
    [
        ((), ("lr",), "at least one scale column"),
        (("width",), (), "at least one tuned column"),
        (("width",), ("lr", "lr"), "each once; got 'lr,lr'"),
        (("width",), ("lr", "width"), "column 'width' cannot be two of scale, tuned and loss"),
    ],
)
def test_columns_that_make_no_sense_are_refused(scales: tuple[str, ...], tuned: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Columns(scales=scales, tuned=tuned)


@pytest.mark.parametrize("text", ["depth\n4\n", "width\n", "width\n-4\n", "width\nwide\n"])
def test_bad_targets_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "targets.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"targets.csv.*'width'"):
        load_targets(tmp_path / "targets.csv", ("width",))
