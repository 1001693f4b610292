"""Tables beyond their limits, with unusual line ends or names, are one line or a page."""

from pathlib import Path

import pandas as pd
import pytest

from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.table_checks import check_table
from tests.support.helpers import command

ROWS = [(width, 2.0**-k, 3 + (k - 6) ** 2 / 20 + 10 / width) for width in (32, 64, 128) for k in range(3, 10)]
BODY = "".join(f"{width},{lr},{loss}\n" for width, lr, loss in ROWS)


def analyze(folder: Path, table: str, targets: str = "512\n", width: str = "width", lr: str = "lr") -> tuple[int, str]:
    (folder / "t.csv").write_bytes(table.encode())
    (folder / "targets.csv").write_text(f"{width}\n{targets}")
    options = ["--scale", width, "--tune", lr, "--targets", "targets.csv", "--out", "out"]
    done = command("analyze", "--table", "t.csv", *options, cwd=folder)
    assert done.stderr.count("\n") == (done.returncode != 0)
    assert (folder / "out").exists() == (done.returncode == 0)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("table", "targets", "says"),
    [
        (f"width,lr,loss\n{BODY}".replace("\n", "\r"), "512\n", "lines end with the character CR alone"),
        (f"{'a' * 99}\r" * 20_000, "512\n", "lines end with the character CR alone"),
        (
            f"width,lr,loss\n{BODY}1e300,0.1,3\n",
            "512\n",
            "got 1e300 in row 22; values from 1e-30 to 1e30 are possible",
        ),
        (f"width,lr,loss\n{BODY}", "1e300\n", "numbers above 0 in every row, from 1e-30 to 1e30"),
        (f"width,lr,loss\n{BODY}", "1\n" * 1001, "has 1,001 rows, at most 1,000 targets are possible"),
        ("width,lr,loss\n" + "".join(f"{k},0.1,3\n" for k in range(1, 1002)), "512\n", "has 1,001 scales by width"),
    ],
)
def test_a_table_beyond_its_limits_is_one_line(tmp_path: Path, table: str, targets: str, says: str) -> None:
    code, line = analyze(tmp_path, table, targets)
    assert code == 2
    assert says in line


def test_a_name_with_dollar_signs_is_drawn_as_it_is(tmp_path: Path) -> None:
    assert analyze(tmp_path, f"a$\\zz$b,l$r^{{$2,loss\n{BODY}", width="a$\\zz$b", lr="l$r^{$2") == (0, "")


def test_values_that_agree_to_twelve_digits_are_one() -> None:
    table = pd.DataFrame(
        {"width": [32, 32.000000000000004, 64], "lr": [0.1, 0.1000000000000001, 0.2], "loss": [3, 4, 5]}
    )
    checked = check_table(table, Columns(scales=("width",), tuned=("lr",)), "t")
    assert checked["width"].tolist() == [32, 32, 64]
    assert checked["lr"].tolist() == [0.1, 0.1, 0.2]
