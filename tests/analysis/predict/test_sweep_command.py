"""The command that adds runs to a sweep, and that it can be pasted."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.laws.runs_to_add import AddedRuns
from hptransfer.analysis.predict.sweep_command import sweep_command
from hptransfer.analysis.tables.columns import Columns
from hptransfer.core.io import write_json
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import INLINE, TINY, command

COLUMNS = Columns(scales=("width",), tuned=("lr",))
RECORDS = pd.DataFrame([{"width": width, "lr": lr} for width in (16, 32) for lr in (1e-5, 0.001, 0.002)])
BELOW = AddedRuns({"width": 16.0}, np.log2([[1e-6]]))


def folder(path: Path, *words: str, sampler: str = "grid") -> RunFolder:
    run = RunFolder(path)
    run.sweep.write_text(f"name: x\nsampler:\n  name: {sampler}\nlauncher:\n  name: local\n")
    write_json(run.environment, {"command": ["/bin/hptransfer", *words]})
    return run


def test_added_values_are_overrides_of_the_last_command(tmp_path: Path) -> None:
    run = folder(tmp_path, "sweep", "my.yaml", "--next", "4", "space.lr.low=1e-5", "seeds=2", "--trust")
    added = [BELOW, AddedRuns({"width": 32.0}, np.log2([[0.004]]))]
    assert sweep_command(run, RECORDS, COLUMNS, added) == (
        "add runs with `hptransfer sweep my.yaml seeds=2 'space.lr.values=[1e-6,1e-5,0.001,0.002,0.004]'`"
    )


def test_a_new_scale_is_a_value_of_its_axis(tmp_path: Path) -> None:
    new = AddedRuns({"width": 8.0}, np.log2([[0.001], [0.002]]))
    found = sweep_command(folder(tmp_path, "sweep", "x"), RECORDS, COLUMNS, [new])
    assert found == "add runs with `hptransfer sweep x 'grid.width.values=[8,16,32]'`"


def test_without_a_command_that_can_be_repeated_there_is_none(tmp_path: Path) -> None:
    assert sweep_command(folder(tmp_path, "analyze", "x"), RECORDS, COLUMNS, [BELOW]) is None
    assert sweep_command(folder(tmp_path, "sweep", "x", "run.token=***"), RECORDS, COLUMNS, [BELOW]) is None
    assert sweep_command(folder(tmp_path, "sweep", "x", sampler="tpe"), RECORDS, COLUMNS, [BELOW]) is None
    assert sweep_command(folder(tmp_path, "sweep", "x"), RECORDS, COLUMNS, [BELOW]) is not None  # the control
    assert sweep_command(RunFolder(tmp_path / "none"), RECORDS, COLUMNS, [BELOW]) is None


@pytest.mark.slow
def test_the_command_of_a_refusal_can_be_pasted_until_there_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = ("space.lr.low=1e-6", "space.lr.high=1e-4", "space.lr.count=3")
    words = ["sweep", "quickstart", *TINY, *INLINE, f"runs={tmp_path}", "name=low", *low]
    for _ in range(5):
        monkeypatch.setattr(sys, "argv", ["hptransfer", *words])
        done = command(*words)
        if done.returncode == 0:
            break
        assert done.returncode == 6
        pasted = re.search(r"add runs with `hptransfer (.*)`\n", done.stderr)
        assert pasted is not None, done.stderr
        words = shlex.split(pasted[1])
    assert done.returncode == 0
    assert "recommended lr for width=64" in done.stdout
