"""Exit codes say how a sweep ended, and the same command goes on after each."""

from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli import main
from hptransfer.sweep.runners.builtin import Builtin
from tests.helpers import INLINE, sweep_arguments

VALUES = ("space.lr.low=0.001953125", "space.lr.high=0.125", "space.lr.count=7", "space.lr.extend=3")


def code(runs: Path, *overrides: str) -> int:
    with pytest.raises(SystemExit) as end:
        main([*sweep_arguments(runs, *INLINE, *VALUES, *overrides)])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_sweep_that_is_done_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path) == 0
    out = capsys.readouterr().out
    assert "recommended lr for width=64" in out
    assert f"report: {tmp_path}/quickstart/report.html" in out


def test_failed_trials_are_3_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Builtin.execute

    def sabotaged(self: Builtin, trials: Any, *rest: Any) -> None:
        if any(trial.tuned["lr"] < 0.003 for trial in trials):
            raise RuntimeError("out of luck")
        train(self, trials, *rest)

    monkeypatch.setattr(Builtin, "execute", sabotaged)
    assert code(tmp_path) == 3
    out = capsys.readouterr().out
    assert "2 trials failed; `hptransfer logs RUN TRIAL` shows why" in out
    assert "RuntimeError: out of luck" in out
    assert "recommended lr" in out


def test_a_spent_budget_is_4_and_more_budget_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path, "budget.trials=10") == 4
    out = capsys.readouterr().out
    assert "the budget is spent; missing:" in out
    assert "width=32,depth=1,tokens=4096: 4 trials not run" in out
    assert "no recommendation yet: 1 scales have a bracketed optimum" in out
    assert code(tmp_path) == 0


def test_no_law_is_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path, "space.lr.low=1e-7", "space.lr.high=1e-5", "space.lr.extend=0") == 6
    assert "scales have a bracketed optimum" in capsys.readouterr().err


def test_bad_input_is_2_and_writes_nothing(tmp_path: Path) -> None:
    assert code(tmp_path, "run.batch=0") == 2
    assert list(tmp_path.iterdir()) == []
