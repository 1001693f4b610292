"""Columns in which runs differ although nobody named them, each beside one that follows from others or is a result."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.predict.data_warnings import pooled_runs, table_warnings
from hptransfer.analysis.predict.untuned_columns import untuned_columns
from hptransfer.analysis.tables.columns import Columns
from hptransfer.analysis.tables.sources import TableSource
from hptransfer.analysis.tables.table_checks import check_table

COLUMNS = Columns(scales=("width",), tuned=("lr",))
TARGETS = pd.DataFrame({"width": [512.0]})
DATA = Path(__file__).parents[3] / "benchmarks" / "data"


def runs(repeats: int = 2, noise: float = 0.002) -> pd.DataFrame:
    """Runs of four widths at seven learning rates, with repeats."""
    random, rows = np.random.default_rng(0), []
    for width in (32, 64, 128, 256):
        for k in range(-3, 4):
            for repeat in range(repeats):
                loss = 3 + (width / 32) ** -0.1 + 0.02 * k**2 + noise * random.standard_normal()
                rows.append({"width": width, "lr": 2.0 ** (k - 8), "loss": loss, "repeat_of": repeat})
    return pd.DataFrame(rows)


def pooled(difference: float = 0.3, **values: Any) -> pd.DataFrame:
    """Runs of two experiments at the same points, the second with a larger loss."""
    table = runs()
    second = table.pop("repeat_of") == 1
    table.loc[second, "loss"] += difference
    for name, (of_first, of_second) in values.items():
        table[name] = np.where(second, of_second, of_first)
    return table


def names(table: pd.DataFrame, columns: Columns = COLUMNS) -> list[tuple[str, bool]]:
    checked = check_table(table, columns, "test")
    return [(column.name, column.separates) for column in untuned_columns(checked, columns)]


def lines(table: pd.DataFrame) -> list[str]:
    return table_warnings(check_table(table, COLUMNS, "test"), COLUMNS, TARGETS)


def test_the_column_that_separates_two_experiments_is_named_with_its_values() -> None:
    (line,) = lines(pooled(experiment=("first", "second")))
    assert line == (
        "runs differ in experiment (values first, second), which is neither a scale nor tuned and separates their "
        "losses: analyze each value separately (filter the table)"
    )


def test_a_column_of_numbers_may_become_a_scale() -> None:
    (line,) = lines(pooled(corpus_version=(1, 2)))
    assert "runs differ in corpus_version (values 1, 2)" in line
    assert line.endswith("(filter the table), or add corpus_version to --scale")


def test_of_several_columns_that_tell_the_same_the_finest_is_named() -> None:
    table = pooled(experiment=("first", "second"))
    table["group"] = np.where(table["experiment"] == "first", "a", np.where(table["width"] > 64, "b", "c"))
    assert [name for name, separates in names(table) if separates] in (["experiment"], ["group"])


def test_experiments_at_different_points_are_told_apart() -> None:
    """No point is repeated, as where each experiment has a grid of its own."""
    table = pooled(experiment=("first", "second"))
    table.loc[table["experiment"] == "second", "lr"] *= 2**0.5
    assert names(table) == [("experiment", True)]


@pytest.mark.parametrize("loss", [0.0, 0.001])
def test_a_column_that_makes_no_difference_is_not_named(loss: float) -> None:
    assert names(pooled(loss, experiment=("first", "second"))) == []


def test_a_known_setting_is_named_even_if_it_makes_no_difference() -> None:
    assert names(pooled(0.0, weight_decay=(0.1, 0.01))) == [("weight_decay", False)]
    (line,) = lines(pooled(0.0, **{"config/weight_decay": (0.1, 0.01)}))
    assert "runs differ in config/weight_decay (values 0.1, 0.01), which is neither a scale nor tuned" in line


def test_a_size_that_moves_within_a_scale_is_named() -> None:
    assert names(pooled(0.3, depth=(2, 4))) == [("depth", True)]
    assert names(pooled(0.0, tokens=(1e9, 2e9))) == [("tokens", False)]


FOLLOWS: dict[str, Any] = {
    "params": lambda table: 12 * table["width"] ** 2 + 100 * table["width"],
    "warmup_steps": lambda table: table["width"] * 10,
    "min_lr": lambda table: table["lr"] / 10,
    "wd": lambda table: table["width"] * table["lr"] ** 0.5,
    "lr_group": lambda table: np.where(table["lr"] > 2.0**-8, "high", "low"),
    "model": lambda table: table["width"].map("width-{}".format),
    "seconds": lambda table: table["loss"].round(1),
    "val_loss": lambda table: table["loss"].round(1),
    "grad_norm": lambda table: table["loss"] ** 2,
    "run_id": lambda table: [f"run-{number}" for number in range(len(table))],
    "created_at": lambda table: range(len(table)),
    "data_seed": lambda table: np.arange(len(table)) % 2,
    "steps": lambda table: 1000 + np.arange(len(table)) % 2,
    "notes": lambda table: None,
    "betas": lambda table: [[0.9, 0.95]] * len(table),
}


@pytest.mark.parametrize("name", FOLLOWS)
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_column_that_follows_from_others_or_is_a_result_is_not_named(name: str, repeats: int) -> None:
    table = runs(repeats).drop(columns="repeat_of")
    table[name] = FOLLOWS[name](table)
    assert names(table) == []


def test_a_public_table_of_one_experiment_has_none() -> None:
    columns = Columns(scales=("params", "tokens"), tuned=("learning_rate", "batch_size"))
    frame = TableSource(DATA / "lm_lr_batch_sweep.csv").read(columns)
    assert {"width", "depth"} <= {*frame.columns}  # the control: they were read
    assert names(frame, columns) == []
    shorter = Columns(scales=("params",), tuned=("learning_rate",))
    assert {name for name, _ in names(frame, shorter)} == {"tokens", "batch_size"}


def test_a_refusal_names_what_separates_the_runs() -> None:
    table = check_table(pooled(experiment=("first", "second")), COLUMNS, "test")
    assert pooled_runs(table, COLUMNS).startswith("; the runs differ in experiment, too, which separates their losses")
    assert pooled_runs(check_table(runs(), COLUMNS, "test"), COLUMNS) == ""
