"""Any table in, as a user gives it: files and exports of other tools are read, what is wrong is one line."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis import pipeline
from hptransfer.analysis.tables import table_files
from hptransfer.cli.main import main

GRID = range(-11, -3)
WIDTHS = (32, 64, 128, 256)


def runs(widths: Sequence[int] = WIDTHS, noise: int = 0, **more: Any) -> pd.DataFrame:
    """Runs whose best learning rate falls by 0.4 octaves an octave of width."""
    random = np.random.default_rng(noise)
    rows = []
    for width in widths:
        for k in GRID:
            away = k + 7 + 0.4 * math.log2(width / 32)
            loss = 3 + 2 * width**-0.3 + 0.03 * away**2 + 0.002 * random.standard_normal()
            rows.append({"width": width, "lr": 2.0**k, "loss": loss, **more})
    return pd.DataFrame(rows)


Analyze = Callable[..., tuple[int, str, str]]


LEFT_OUT = "left out"


@pytest.fixture
def analyze(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Analyze:
    """`hptransfer analyze` of runs.csv in a folder of its own: exit code, what it printed, what it complained of.

    Pages are drawn in other tests: drawing takes longer than the fit.
    """
    monkeypatch.setattr(pipeline, "render", lambda *_: "page")
    monkeypatch.setattr(pipeline, "curves_figure", lambda *_: "figure")
    monkeypatch.chdir(tmp_path)
    Path("targets.csv").write_text("width\n512\n")

    def call(
        table: str | bytes | pd.DataFrame | None = None, *options: str, name: str = "runs.csv"
    ) -> tuple[int, str, str]:
        if isinstance(table, pd.DataFrame):
            table = table.to_csv(index=False)
        if table is not None:
            Path(name).write_bytes(table.encode() if isinstance(table, str) else table)
        given = {"--table": name, "--scale": "width", "--tune": "lr", "--targets": "targets.csv", "--out": "out"}
        given |= dict(zip(options[::2], options[1::2], strict=True))
        given = {name: words for name, words in given.items() if words != LEFT_OUT}
        if "--mlflow" in given:
            del given["--table"]
        with pytest.raises(SystemExit) as end:
            main(["analyze", *(word for pair in given.items() for word in pair)])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


def answers(folder: str = "out") -> pd.DataFrame:
    return pd.read_csv(Path(folder) / "predictions.csv")


def assert_found(result: tuple[int, str, str]) -> None:
    code, _, complaint = result
    assert (code, complaint) == (0, "")
    assert math.log2(answers()["lr"].iloc[0]) == pytest.approx(-7 - 0.4 * 4, abs=0.15)


def assert_refused(result: tuple[int, str, str], *words: str, code: int = 2) -> None:
    """One line after the table's warnings, no traceback, nothing written."""
    found, said, printed = result
    assert found == code
    assert said == ""
    complaint = "".join(line for line in printed.splitlines(keepends=True) if not line.startswith("warning: "))
    assert complaint.startswith("hptransfer: ")
    assert complaint.count("\n") == 1
    for word in words:
        assert word in complaint, complaint
    assert not Path("out").exists()


# --- what is read ---------------------------------------------------------------------------------


def test_a_csv_file(analyze: Analyze) -> None:
    assert_found(analyze(runs()))
    of_rate = [f"lr{end}" for end in ("", "_center", "_low", "_high", "_stable_below", "_outside_tried", "_widened_by")]
    risk = ["risk_expected", "risk_p90", "risk_expected_percent", "risk_p90_percent", "p_diverge"]
    names = ["width", *of_rate, "loss", "loss_low", "loss_high", *risk, "extrapolation_octaves"]
    assert list(answers().columns) == names


def test_a_csv_file_with_a_byte_order_mark(analyze: Analyze) -> None:
    assert_found(analyze(runs().to_csv(index=False).encode("utf-8-sig")))


def test_empty_names_and_values_at_the_end_of_lines(analyze: Analyze) -> None:
    lines = runs(note="a, b").to_csv(index=False).splitlines()
    assert lines[1].endswith(',"a, b"')
    assert_found(analyze("\n".join([lines[0] + ",,", lines[1] + ",", lines[2] + ",,,,", "", " ", *lines[3:]])))


def test_a_parquet_file(analyze: Analyze, tmp_path: Path) -> None:
    runs().to_parquet(tmp_path / "runs.parquet")
    assert_found(analyze(None, "--table", "runs.parquet"))


def test_an_export_of_wandb(analyze: Analyze) -> None:
    """A run a row, its state in words, configuration by name, one that diverged as text."""
    table = (
        runs(State="finished", Notes="-", Runtime=60).rename(columns={"loss": "val/loss"}).astype({"val/loss": object})
    )
    table.insert(0, "Name", [f"brisk-sun-{number}" for number in range(len(table))])
    table.loc[7, "val/loss"] = "Infinity"
    table.loc[15, "val/loss"] = "NaN"
    table.loc[16, ["State", "val/loss"]] = ["crashed", 0.01]  # to be left out
    table.loc[17, ["State", "val/loss"]] = ["running", 0.01]
    assert_found(analyze(table, "--loss", "val/loss"))
    optima = pd.read_csv("out/optima.csv")
    assert list(optima["runs"]) == [8, 8, 6, 8]
    assert list(optima["diverged"]) == [1, 1, 0, 0]


def test_an_export_of_optuna(analyze: Analyze) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = runs()
    study = optuna.create_study()
    spread = optuna.distributions.FloatDistribution(1e-6, 1.0, log=True)
    for row in table.to_dict(orient="records"):
        study.add_trial(
            optuna.trial.create_trial(
                params={"lr": row["lr"]},
                distributions={"lr": spread},
                user_attrs={"width": row["width"]},
                value=row["loss"],
            )
        )
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL,
            params={"lr": 0.9},
            distributions={"lr": spread},
            user_attrs={"width": 32},
        )
    )
    assert_found(analyze(study.trials_dataframe().to_csv()))
    assert pd.read_csv("out/optima.csv")["runs"].sum() == len(table)


THEIR_WARNINGS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store with an experiment whose parameter and metric have names of their own."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("scales")
    client.create_experiment("nothing yet")
    for row in runs().to_dict(orient="records"):
        run = client.create_run(experiment).info.run_id
        client.log_param(run, "optim.lr", row["lr"])
        client.log_param(run, "width", int(row["width"]))
        client.log_metric(run, "eval_loss", row["loss"] + 1, step=1)
        client.log_metric(run, "eval_loss", row["loss"] if row["lr"] < 2.0**-4 else math.inf, step=2)
        client.set_terminated(run)
    failed = client.create_run(experiment).info.run_id
    client.log_param(failed, "optim.lr", 1.0)
    client.log_param(failed, "width", 32)
    client.log_metric(failed, "eval_loss", 0.1)
    client.set_terminated(failed, status="FAILED")
    return uri


@THEIR_WARNINGS
def test_an_experiment_of_mlflow(analyze: Analyze, store: str) -> None:
    names = ("--columns", "lr=optim.lr", "--loss", "eval_loss")
    assert_found(analyze(None, "--mlflow", store, "--experiment", "scales", *names))
    optima = pd.read_csv("out/optima.csv")
    assert list(optima["runs"]) == [len(GRID)] * 4
    assert list(optima["diverged"]) == [1] * 4


@THEIR_WARNINGS
@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("scale", ("unknown experiment 'scale'", "Did you mean 'scales'?")),
        ("nothing yet", ("experiment 'nothing yet' has no runs",)),
        ("scales", ("unknown column 'lr'", "Known: eval_loss, optim.lr")),
    ],
)
def test_what_mlflow_lacks_is_named(analyze: Analyze, store: str, experiment: str, words: tuple[str, ...]) -> None:
    assert_refused(analyze(None, "--mlflow", store, "--experiment", experiment, "--loss", "eval_loss"), *words)


def test_a_store_that_is_not_there_is_not_made(analyze: Analyze) -> None:
    assert_refused(analyze(None, "--mlflow", "sqlite:///none.db", "--experiment", "scales"), "no store 'none.db'")
    assert not Path("none.db").exists()
    result = analyze(None, "--mlflow", "odd://x", "--experiment", "scales")
    assert_refused(result, "--mlflow", "cannot be read (Model registry", "'odd://x'")
    assert len(result[2]) < 200


@THEIR_WARNINGS
def test_a_server_that_does_not_answer_is_one_short_line(analyze: Analyze, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://127.0.0.1:9"  # where nothing listens
    _, _, complaint = result = analyze(None, "--mlflow", uri, "--experiment", "scales")
    assert_refused(result, f"--mlflow: no server answers at {uri} (", "Connection refused); start it, or give another")
    assert len(complaint) < 200


# --- what runs and targets may look like ----------------------------------------------------------


def test_losses_that_are_no_numbers_diverged_and_are_counted(analyze: Analyze) -> None:
    table = runs()
    table.loc[[7, 14, 15], "loss"] = [math.nan, math.inf, -math.inf]
    result = analyze(table)
    assert_found(result)
    assert "3 of 32 runs diverged" in result[1]
    assert list(pd.read_csv("out/optima.csv")["diverged"]) == [1, 2, 0, 0]


def test_rows_that_do_not_count_are_counted(analyze: Analyze) -> None:
    table = runs(State="finished")
    table.loc[[3, 4, 20], "State"] = ["Preempted", "running", "crashed"]
    result = analyze(table)
    assert_found(result)
    assert "rows not used because of their state: 2 failed, 1 running\n" in result[1]
    assert pd.read_csv("out/optima.csv")["runs"].sum() == 29
    assert "not used because" not in analyze(runs(State="finished"))[1]


def test_numbers_are_no_states(analyze: Analyze) -> None:
    table = runs(status=1)
    table.loc[3, "status"] = 0
    result = analyze(table)
    assert_found(result)
    assert "not used because" not in result[1]
    assert pd.read_csv("out/optima.csv")["runs"].sum() == len(table)
    Path("out").rename("before")
    words = ("--columns state=status: a column of numbers does not say which runs finished; use words (canceled,",)
    assert_refused(analyze(table, "--columns", "state=status"), *words)


def test_runs_that_repeat_a_value_are_seeds(analyze: Analyze) -> None:
    """More of them narrow the interval."""
    assert_found(analyze(runs()))
    once = answers().iloc[0]
    assert_found(analyze(pd.concat([runs(noise=seed, seed=seed) for seed in range(3)])))
    assert list(pd.read_csv("out/optima.csv")["runs"]) == [24] * 4
    assert answers()["lr_high"].iloc[0] / answers()["lr_low"].iloc[0] < once["lr_high"] / once["lr_low"]


def test_a_target_inside_what_was_seen_is_interpolation_and_said(analyze: Analyze) -> None:
    Path("targets.csv").write_text("width\n100\n512\n64\n")
    code, said, _ = analyze(runs())
    assert code == 0
    assert "this is interpolation" in said
    assert "2 more targets in predictions.csv" in said
    assert list(answers()["width"]) == [100, 512, 64]
    assert list(answers()["extrapolation_octaves"]) == [0, 1, 0]
    Path("targets.csv").write_text("width\n512\n")
    assert "this is interpolation" not in analyze(runs())[1]


def test_as_many_scales_as_parameters_fall_back_to_a_power_law_and_say_so(analyze: Analyze) -> None:
    code, said, _ = analyze(runs(WIDTHS[:2]))
    assert code == 0
    assert "warning: as many scales as a power law has parameters" in said
    assert "as many scales" not in analyze(runs())[1]


def test_fewer_scales_than_that_are_refused_with_how_many_more(analyze: Analyze) -> None:
    table = pd.concat([runs(WIDTHS[:1], depth=2), runs(WIDTHS[1:2], depth=4)])
    Path("targets.csv").write_text("width,depth\n512,8\n")
    words = ("2 scales have a run", "a law over width, depth needs 3; 1 more needed")
    assert_refused(analyze(table, "--scale", "width,depth"), *words, code=6)


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str | bytes | pd.DataFrame, tuple[str, ...], int]] = {
    "a missing column": (runs().rename(columns={"lr": "lrate"}), ("column 'lr'", "Known: loss, lrate, width"), 2),
    "a missing loss": (runs().drop(columns="loss"), ("column 'loss'", "Known: lr, width"), 2),
    "words": (runs().astype({"lr": object}).replace({"lr": {2.0**-5: "high"}}), ("column 'lr'", "got 'high'"), 2),
    "thousands": (runs().assign(width="1,024"), ("column 'width' must be numbers, got '1,024'",), 2),
    "no value": (runs().replace({"lr": {2.0**-5: None}}), ("column 'lr' must be above 0 and finite, got nan",), 2),
    "a scale of zero": (runs().assign(width=0), ("column 'width' must be above 0",), 2),
    "a tuned zero": (
        runs().replace({"lr": {2.0**-5: 0.0}}),
        ("must be above 0 and finite, got 0 in row 7;", "leave these rows out, or tune a column that is above 0"),
        2,
    ),
    "an empty file": ("", ("runs.csv is empty; a table needs a header and rows",), 2),
    "blank lines": ("\n\n", ("runs.csv is empty",), 2),
    "a header alone": ("width,lr,loss\n", ("runs.csv has no finished run",), 2),
    "another encoding": ("width,lr,loss,größe\n64,1,2,3\n".encode("latin-1"), ("save it as UTF-8 CSV",), 2),
    "another encoding below": ("width,lr,loss\n64,1,2\n64,1,2 µ\n".encode("latin-1"), ("save it as UTF-8",), 2),
    "UTF-16": (runs().to_csv(index=False).encode("utf-16"), ("save it as UTF-8 CSV",), 2),
    "bytes": (bytes(range(256)) * 9, ("cannot be read as a table",), 2),
    "semicolons": (runs().to_csv(index=False, sep=";"), ("separated by semicolons",), 2),
    "tabs": (runs().to_csv(index=False, sep="\t"), ("separated by tabs",), 2),
    "a row cut off": (
        runs().to_csv(index=False).strip().rpartition(",")[0],
        ("row 32 has 2 values, fewer values than the header, which has 3; complete the row or leave it out",),
        2,
    ),
    "a row too long": (f"{runs().to_csv(index=False)}\n64,0.01,3,4,5", ("row 33 has 5 values, more values than",), 2),
    "commas in numbers": ("width,lr,loss\n64,0,01,2,5\n", ("more values than the header",), 2),
    "a column twice": ("width,lr,loss,lr\n64,1,2,3\n", ("2 columns are called 'lr'",), 2),
    "one value": (runs().assign(lr=0.01), ("lr was tried at 1 value", "at least 3"), 6),
    "one scale": (runs((32,)), ("all runs are at one scale (width=32)", "1 more needed"), 6),
    "nothing but divergence": (runs().assign(loss=math.nan), ("0 scales have a run that did not diverge",), 6),
    "nothing but failures": (runs(state="failed"), ("has no finished run (32 failed)",), 2),
    "states of another tool": (
        runs(Status="ok"),
        ("column 'Status' says which runs finished, got 'ok' in row 1; known: canceled,", "rename the column"),
        2,
    ),
    "a state left empty": (runs().assign(state=["finished", None] * 16), ("got '' in row 2; known:",), 2),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_table_is_refused_in_one_line(analyze: Analyze, case: str) -> None:
    table, words, code = REFUSED[case]
    assert_refused(analyze(table), *words, code=code)


@pytest.mark.parametrize("estimator", ["quadratic", "nested"])
def test_published_estimators_that_place_no_optimum_at_all_say_so(analyze: Analyze, estimator: str) -> None:
    falling = runs()  # every scale's best is its largest value
    falling["loss"] = 3 - 0.1 * np.log2(falling["lr"])
    words = ("0 scales have runs that place an optimum", "needs 2; 2 more needed: try values on both sides")
    assert_refused(analyze(falling, "--estimator", estimator), *words, code=6)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", runs().to_csv().encode()])
def test_a_parquet_file_that_is_none_is_refused(analyze: Analyze, content: bytes) -> None:
    assert_refused(analyze(content, name="runs.parquet"), "runs.parquet cannot be read", code=2)


def test_a_folder_and_nothing_at_all_are_refused(analyze: Analyze) -> None:
    Path("folder.csv").mkdir()
    assert_refused(analyze(None, "--table", "folder.csv"), "folder.csv is a folder")
    assert_refused(analyze(None, "--table", "none.csv"), "no table 'none.csv'")
    assert_refused(analyze(runs(), "--targets", "none.csv"), "no table 'none.csv'")
    assert_refused(analyze("\x1f\x8b", name="runs.csv.gz"), "runs.csv.gz is compressed; unpack it")


def test_a_comma_in_a_column_s_name_is_told_of(analyze: Analyze) -> None:
    words = ("unknown column 'lr'.", "column 'lr,peak' has a comma in its name, which must be renamed in the table")
    assert_refused(analyze(runs().rename(columns={"lr": "lr,peak"}), "--tune", "lr,peak"), *words)
    Path("targets.csv").write_text('"width,d"\n512\n')
    words = ("targets.csv: unknown column 'width'.", "column 'width,d' has a comma in its name")
    assert_refused(analyze(runs().rename(columns={"width": "width,d"}), "--scale", "width,d"), *words)
    Path("targets.csv").write_text("width\n512\n")
    assert "comma" not in analyze(runs(), "--tune", "rate")[2]


@pytest.mark.parametrize(
    "names",
    [
        ("Step", "brisk-sun-1 - val/loss", "brisk-sun-1 - val/loss__MIN", "brisk-sun-1 - val/loss__MAX"),
        ("tokens", "brisk-sun-1 - val/loss", "brisk-sun-1 - val/loss__MIN", "brisk-sun-1 - val/loss__MAX"),
        ("Relative Time (Process)", "brisk-sun-1 - val/loss", "lr: 0.01 - val/loss"),
        ("train/global_step", "brisk-sun-1 - val/loss", "lr: 0.01 - val/loss"),
        ("tokens", "brisk-sun-1 - val/loss"),
        ("_runtime", "brisk-sun-1 - val/loss"),
        ("Relative Time (Hours)", "brisk-sun-1 - val/loss"),
    ],
)
def test_a_chart_of_wandb_is_told_apart(analyze: Analyze, names: tuple[str, ...]) -> None:
    table = ",".join(names) + "\n" + ",".join("1" * len(names)) + "\n"
    words = ("runs.csv: it is W&B's export of a chart", "such as 'brisk-sun-1 - val/loss'", "export the table of runs")
    assert_refused(analyze(table), *words)


def test_other_columns_with_a_dash_are_no_chart(analyze: Analyze) -> None:
    assert "export of a chart" not in analyze("width,loss - lr,rate\n1,2,3\n")[2]


def test_of_many_columns_a_few_like_the_missing_one_are_named(analyze: Analyze) -> None:
    table = runs().rename(columns={"lr": "optim.lr", "loss": "summary/val/loss"})
    for number in range(24):
        table[f"config/some_long_name_of_a_setting_{number}"] = number
    words = ("unknown column 'lr'. Did you mean 'optim.lr'? Known: optim.lr and 26 more; give --columns lr=optim.lr",)
    result = analyze(table, "--loss", "summary/val/loss")
    assert_refused(result, *words)
    assert len(result[2]) < 400
    result = analyze(table, "--columns", "lr=optim.lr")
    assert_refused(result, "unknown column 'loss'. Did you mean 'summary/val/loss'?", "; give --loss summary/val/loss")
    assert_found(analyze(table, "--columns", "lr=optim.lr", "--loss", "summary/val/loss"))


def test_blanks_around_the_names_of_a_header_do_not_count(analyze: Analyze) -> None:
    spaced = runs().rename(columns={"lr": " lr", "loss": "loss "})
    assert_refused(analyze(spaced.assign(lr=1.0)), "2 columns are called 'lr'; which one is meant?")
    assert_found(analyze(spaced))
    spaced.to_parquet("runs.parquet")
    assert_found(analyze(None, "--table", "runs.parquet"))
    Path("runs.json").write_text(spaced.to_json(orient="records"))
    assert_found(analyze(None, "--table", "runs.json"))


def test_columns_separated_by_blanks_are_told_apart(analyze: Analyze) -> None:
    table = runs().to_csv(index=False, sep=" ")
    assert_refused(analyze(table), "runs.csv has its columns separated by blanks; save it with commas, as CSV")
    Path("targets.csv").write_text("model size\n512\n")  # one column, whose name has a blank
    assert_found(analyze(runs().rename(columns={"width": "model size"}), "--scale", "model size"))


def test_the_word_diverged_is_a_diverged_run(analyze: Analyze) -> None:
    table = runs().astype({"loss": object})
    table.loc[[7, 15], "loss"] = ["diverged", " Diverged"]
    assert_found(analyze(table))
    assert list(pd.read_csv("out/optima.csv")["diverged"]) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("width", "64M", "got '64M' in row 10; write it as 64000000"),
        ("width", "1,024", "got '1,024' in row 10; write it as 1024"),
        ("lr", "1.5k", "got '1.5k' in row 10; write it as 1500"),
        ("lr", "high", "got 'high' in row 10; write a number such as 64 or 6.4e7, or leave the row out"),
        (
            "loss",
            "OOM",
            "got 'OOM' in row 10; write a number such as 64 or 6.4e7, or nan if the run diverged",
        ),
        ("lr", None, "got nan in row 10; complete the value, or leave the row out"),
    ],
)
def test_a_faulty_value_has_a_way_out(analyze: Analyze, column: str, value: object, words: str) -> None:
    table = runs().astype({column: object})
    table.loc[9, column] = value
    assert_refused(analyze(table), words)


def test_the_warnings_of_a_table_come_with_its_refusal(analyze: Analyze) -> None:
    table = runs(steps=10)
    table["loss"] = 3 - 0.1 * np.log2(table["lr"])
    result = analyze(table)
    assert_refused(result, "no optimum of lr lies inside the tried values", code=6)
    assert result[2].startswith("warning: the column steps has values down to 10: if they count optimizer steps")
    assert result[2].count("\n") == 2


def test_a_file_that_cannot_be_read_is_refused(analyze: Analyze) -> None:
    """One that fails when it is read, for everyone, and one without permission."""
    assert_refused(analyze(None, "--table", "/proc/self/mem"), "/proc/self/mem cannot be read (Input/output error)")
    Path("runs.csv").touch(mode=0)
    if not os.access("runs.csv", os.R_OK):
        assert_refused(analyze(None), "runs.csv cannot be read (Permission denied)")


def test_a_table_of_too_many_rows_is_refused(analyze: Analyze, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "PART_ROWS", 10)
    monkeypatch.setattr(table_files, "MOST_ROWS", 32)
    assert_found(analyze(runs()))
    monkeypatch.setattr(table_files, "MOST_ROWS", 31)
    words = ("at most 31 are read; keep one row a run",)
    Path("out").rename("before")
    assert_refused(analyze(runs()), "runs.csv has more than 31 rows (0.00", *words)
    runs().to_parquet("runs.parquet")
    assert_refused(analyze(None, "--table", "runs.parquet"), "runs.parquet has 32 rows", *words)


def test_a_line_without_end_is_refused(analyze: Analyze, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of tables would hold it in memory, were it 10 GB."""
    monkeypatch.setattr(table_files, "LONGEST_LINE", 2_000)
    long = "1" * 400_000
    assert_refused(analyze(f"width,lr,loss\n64,0.1,2\n64,0.1,{long}"), "a line is longer than 2,000 bytes")
    assert_refused(analyze(f"width,{long}"), "its first line is longer than 2,000 bytes")


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        (("--estimator", "surfac"), ("unknown estimator 'surfac'", "Did you mean 'surface'?"), 2),
        (("--laws", "power,brken"), ("unknown law 'brken'", "Did you mean 'broken'?"), 2),
        (("--laws", "batch_time"), ("none of the laws batch_time applies to width; add power",), 6),
        (("--against", "another"), ("--against is not for an analysis of a table",), 2),
        (("--experiment", "scales"), ("--experiment is not for an analysis of a table",), 2),
        (("--format", "pdf"), ("--format: unknown format 'pdf'", "Known: csv, json, png, svg"), 2),
        (("--columns", "lr"), ("--columns must be NAME=COLUMN",), 2),
        (("--columns", "lr=lr,peak"), ("got 'peak'; a column with a comma in its name must be renamed",), 2),
        (("--columns", "lr=rate"), ("--columns lr=rate: unknown column 'rate'",), 2),
        (("--tune", "lr,width"), ("'width' cannot be two of scale, tuned and loss",), 2),
        (("--out", "runs.csv"), ("--out runs.csv cannot be written",), 2),
    ],
)
def test_wrong_options_are_refused(
    analyze: Analyze, options: tuple[str, str], words: tuple[str, ...], code: int
) -> None:
    assert_refused(analyze(runs(), *options), *words, code=code)


@pytest.mark.parametrize("text", ["depth\n4\n", "width\n", "width\n-4\n", "width\nwide\n", "width\n64\n\nnan\n"])
def test_bad_targets_are_refused(analyze: Analyze, text: str) -> None:
    Path("targets.csv").write_text(text)
    assert_refused(analyze(runs()), "targets.csv", "'width'")


@pytest.mark.slow
def test_figures_and_tables_of_an_earlier_analysis_do_not_stay(analyze: Analyze) -> None:
    assert analyze(runs().rename(columns={"lr": "eta"}), "--tune", "eta", "--format", "svg,json")[0] == 0
    mine = [Path("out/figures/law_mine.svg"), Path("out/figures/law_eta_width.png"), Path("out/tables/notes.json")]
    for path in mine:
        path.write_text("mine")
    assert Path("out/figures/law_eta_width.svg").exists()
    assert_found(analyze(runs(), "--format", "svg"))
    there = {path.name for path in Path("out/figures").iterdir()}
    assert {"law_lr_width.svg", "law_mine.svg", "law_eta_width.png"} <= there
    assert not [name for name in there if "eta" in name and name.endswith(".svg")]
    assert [path.name for path in Path("out/tables").iterdir()] == ["notes.json"]
    assert_found(analyze(runs()))
    assert sorted(Path("out/figures").iterdir()) == sorted(mine[:2])


@pytest.mark.parametrize("files", [["figures/../mine.txt", "mine.txt", 3, "tables/there"], "mine.txt", None])
def test_a_list_of_files_that_is_not_ours_takes_nothing_away(analyze: Analyze, files: object) -> None:
    Path("out/tables/there").mkdir(parents=True)
    Path("out/figures").mkdir()
    Path("out/mine.txt").touch()
    Path("out/fit.json").write_text(json.dumps({"schema": 1, "files": files}) if files else "no JSON")
    assert_found(analyze(runs()))
    assert Path("out/mine.txt").exists()
    assert Path("out/tables/there").is_dir()


def test_a_folder_of_results_that_was_there_stays(analyze: Analyze) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    assert analyze(runs((32,)))[0] == 6
    assert list(Path("out").iterdir()) == [Path("out/mine.txt")]


# --- which scales it is for -----------------------------------------------------------------------


def test_one_target_stands_on_the_command_line(analyze: Analyze) -> None:
    assert_found(analyze(runs(), "--targets", LEFT_OUT, "--target", "width=512"))
    assert list(answers()["width"]) == [512]


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("depth=2", "unknown axis 'depth'"),
        ("width=wide", "--target width must be a number, as in --target width=64, got 'wide'"),
        ("width=0", "--target width"),
    ],
)
def test_a_target_that_is_no_scale_of_the_table_is_refused(analyze: Analyze, target: str, word: str) -> None:
    assert_refused(analyze(runs(), "--targets", LEFT_OUT, "--target", target), word)


def test_without_a_target_the_exponents_are_shown(analyze: Analyze) -> None:
    code, said, _ = analyze(runs(), "--targets", LEFT_OUT)
    assert code == 0
    assert said.startswith("no target was given: the largest scale takes its place; --target width=NUMBER names")
    assert "lr along width: -0.4" in said
    assert list(answers()["width"]) == [runs()["width"].max()]
