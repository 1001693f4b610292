"""Runs that were made before become finished trials, and a sweep fills what they leave open."""

import math
import re
from pathlib import Path

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.core.io import read_json, read_jsonl
from hptransfer.core.records import DIVERGED, DONE
from hptransfer.core.run_folder import RunFolder
from hptransfer.import_runs import Imported, import_rows, read_rows
from hptransfer.planning.plan import Plan, make_plan
from tests.support.helpers import command, outcomes, tiny
from tests.support.scripts import plan_of, write_sweep

HEADER = "width,lr,loss"


def bowl(width: int, lr: float) -> float:
    """Another loss than the script's, so that who trained it shows."""
    return 7 + 0.1 * (math.log2(lr) + 6 + 0.5 * math.log2(width / 32)) ** 2


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "old.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows(*widths: int, exponents: range = range(-9, -2)) -> list[str]:
    return [f"{width},{2.0**k:.6g},{bowl(width, 2.0**k)}" for width in widths for k in exponents]


def taken(plan: Plan, path: Path, loss: str = "loss", trust: bool = False, **columns: str) -> Imported:
    rows = read_rows(plan, path, columns=columns, loss=loss, trust=trust)
    plan.config.folder.create()
    return import_rows(plan.config.folder, rows)


def test_a_sweep_trains_what_the_table_leaves_open(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    table(tmp_path, *rows(32, 64), header="w,rate,nats")
    columns = ("--columns", "width=w,lr=rate", "--loss", "nats")
    done = command("import", "bowl.yaml", "old.csv", *columns, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("14 trials imported; `hptransfer sweep` trains what is missing")
    swept = command("sweep", "bowl.yaml", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    folder = RunFolder(tmp_path / "runs" / "bowl")
    assert list(outcomes(folder).values()) == [DONE] * 21
    by_width: dict[object, set[bool]] = {}
    for trial in folder.read_trials():
        outcome = folder.read_outcome(trial.id)
        assert outcome is not None
        assert outcome.loss is not None
        assert (outcome.loss > 6) == (outcome.imported is not None)
        by_width.setdefault(trial.scale.axes["width"], set()).add(outcome.imported is not None)
    assert by_width == {32: {True}, 64: {True}, 128: {False}}
    assert math.log2(read_json(folder.prediction)["hyperparameters"]["lr"]["value"]) == pytest.approx(-7.5, abs=0.1)
    again = command("import", "bowl", "old.csv", *columns, cwd=tmp_path)
    assert again.stdout.startswith("0 trials imported; 14 existed already and stay as they are")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert taken(plan, table(tmp_path, *rows(32))) == Imported(7, 0)
    other = table(tmp_path, *(line.rpartition(",")[0] + ",1.0" for line in rows(32, 64)))
    assert taken(plan, other) == Imported(7, 7)
    losses = {trial.scale.axes["width"]: set[float | None]() for trial in plan.config.folder.read_trials()}
    for trial in plan.config.folder.read_trials():
        outcome = plan.config.folder.read_outcome(trial.id)
        assert outcome is not None
        losses[trial.scale.axes["width"]].add(outcome.loss)
    assert min(loss or 0 for loss in losses[32]) >= 7
    assert losses[64] == {1.0}


def test_a_row_says_where_it_came_from_and_has_a_curve_of_one_point(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    taken(plan, table(tmp_path, "32,0.015625,3.5,900", "32,0.125,inf,10", header="width,lr,loss,steps"))
    folder = plan.config.folder
    (done,) = [trial for trial in folder.read_trials() if trial.tuned["lr"] == 2**-6]
    outcome = folder.read_outcome(done.id)
    assert outcome is not None
    assert (outcome.imported, outcome.loss, outcome.steps) == ("old.csv row 1", 3.5, 900)
    assert [(point["step"], point["loss"]) for point in read_jsonl(folder.curve_path(done.id))] == [(900, 3.5)]
    assert sorted(outcomes(folder).values()) == [DIVERGED, DONE]


def test_rounded_values_are_the_sweeps_and_repeats_are_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    taken(plan, table(tmp_path, "32,0.001953,3", "32,0.001953,4", "32,0.0123,5"))
    found = sorted((trial.tuned["lr"], trial.seed) for trial in plan.config.folder.read_trials())
    assert found == [(2**-9, 0), (2**-9, 1), (0.0123, 0)]


def test_parquet_and_a_column_of_seeds(tmp_path: Path) -> None:
    import pandas as pd

    plan = plan_of(tmp_path)
    path = tmp_path / "old.parquet"
    pd.DataFrame({"width": [32, 32], "lr": [0.5, 0.5], "loss": [3.0, 4.0], "s": [5, 7]}).to_parquet(path)
    taken(plan, path, seed="s")
    assert sorted(trial.seed for trial in plan.config.folder.read_trials()) == [5, 7]


BAD = [
    (["32,0.01,3"], "width,rate,loss", {}, "unknown column 'lr'. Known: loss, rate, width; give --columns lr=COLUMN"),
    (["32,0.01,3"], "width,lr,nats", {}, "unknown column 'loss'. Known: lr, nats, width; give --loss COLUMN"),
    (["32,0.01,3"], HEADER, {"rate": "lr"}, "--columns: unknown name 'rate'. Known: lr, seed, width"),
    (["32,0.01,3", "48,0.01,3"], HEADER, {}, "old.csv row 2: width=48 is not a scale of the sweep (width=32; "),
    (["32,0.01,"], HEADER, {}, "old.csv row 1: column 'loss' has no value; leave the row out"),
    (["32,,3"], HEADER, {}, "column 'lr' has no value"),
    (["32,low,3"], HEADER, {}, "column 'lr' must be a number, got 'low'"),
    (["32,-0.1,3"], HEADER, {}, "lr must be above 0 and finite, got -0.1"),
    (["32,0.01,3,1.5"], f"{HEADER},seed", {}, "seed must be a whole number, at least 0, got 1.5"),
    (["32,0.01,3,1", "32,0.01,4,1"], f"{HEADER},seed", {}, "is in the table 2 times; leave one of them"),
]


@pytest.mark.parametrize(("lines", "header", "columns", "message"), BAD)
def test_a_table_that_cannot_be_used_changes_nothing(
    tmp_path: Path, lines: list[str], header: str, columns: dict[str, str], message: str
) -> None:
    plan = plan_of(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        taken(plan, table(tmp_path, *lines, header=header), **columns)
    assert "\n" not in str(caught.value)
    assert plan.config.folder.read_trials() == []


def test_runs_of_a_builtin_sweep_need_the_users_word(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path))
    path = table(tmp_path, "16,1,4096,0.01,3", header="width,depth,tokens,lr,loss")
    with pytest.raises(ConfigError, match="these runs cannot be checked for the settings"):
        taken(plan, path)
    assert taken(plan, path, trust=True) == Imported(1, 0)


def test_a_refused_table_begins_no_run(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    table(tmp_path, "32,0.015625,wide")
    refused = command("import", "bowl.yaml", "old.csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert not (tmp_path / "runs").exists()
