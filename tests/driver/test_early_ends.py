"""Trials that stop before the step that others of their scale reached."""

from pathlib import Path

import pandas as pd
import pytest

from hptransfer.core.io import read_json
from hptransfer.core.records import DIVERGED, DONE, FAILED, Objective, Outcome, Scale, Trial
from hptransfer.core.run_folder import RunFolder
from hptransfer.driver.progress import count_progress
from hptransfer.driver.trial_index import EarlyEnds
from tests.support.helpers import command, outcomes
from tests.support.scripts import write_sweep

BEST = 0.007
ACCURACY = f"""
import math, sys
import hptransfer
width, lr, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
u = math.log2(lr / {BEST})
for step in range(1, 5):
    if u > 1.5 and step == 3:
        sys.exit(0)  # at a NaN
    hptransfer.report(step=step, accuracy=0.93 - 3 / width - 0.03 * u**2 - 0.001 * (hash((width, lr)) % 7) - 0.1 / step)
"""


def trial(name: str, width: int = 32, **tuned: float) -> Trial:
    return Trial(id=name, scale=Scale({"width": width}), tuned=tuned, seed=0, run={}, flops=1.0, params=1)


def done(steps: int) -> Outcome:
    return Outcome(state=DONE, loss=1.0, steps=steps)


def test_a_trial_that_stops_early_is_named_whenever_it_ends() -> None:
    first, last = EarlyEnds(), EarlyEnds()
    rows = [("early", 100), ("a", 400), ("b", 400)]
    assert [first.add(trial(name), done(steps)) for name, steps in rows] == [{}, {}, {"early": REASON}]
    assert [last.add(trial(name), done(steps)) for name, steps in rows[::-1]] == [{}, {}, {"early": REASON}]
    assert first.add(trial("c"), done(400)) == {}  # it is named once


REASON = "it exited with code 0 at step 100, where others of its scale reached step 400"


@pytest.mark.parametrize(
    "rows",
    [
        [("a", 400), ("b", 100)],  # one trial shows no end
        [("a", 400), ("b", 400), ("c", 395)],  # an interval of reports
        [("a", 0), ("b", 400), ("c", 400)],  # without steps
    ],
)
def test_trials_that_may_be_complete_are_not(rows: list[tuple[str, int]]) -> None:
    ends = EarlyEnds()
    assert [ends.add(trial(name), done(steps)) for name, steps in rows] == [{}] * len(rows)


def test_trials_of_other_scales_and_batch_sizes_are_not_compared() -> None:
    ends = EarlyEnds()
    for name, width, batch, steps in (("a", 32, 8, 400), ("b", 32, 8, 400), ("c", 64, 8, 100), ("d", 32, 32, 100)):
        assert ends.add(trial(name, width, batch_size=batch), done(steps)) == {}
    assert ends.add(trial("e", 32, batch_size=8), done(100)) == {"e": REASON}
    imported = Outcome(state=DONE, loss=1.0, steps=1, imported="old.csv row 1")
    assert ends.add(trial("f", 32, batch_size=8), imported) == {}


def test_the_best_of_a_scale_is_by_the_goal() -> None:
    rows = [(trial(name, lr=lr), Outcome(state=DONE, loss=loss)) for name, lr, loss in (("a", 1, 0.2), ("b", 2, 0.9))]
    (scale,) = count_progress(rows, (), 1, Objective("accuracy", "maximize")).scales
    assert (scale.best, scale.best_loss) == ({"lr": 2}, 0.9)
    (scale,) = count_progress(rows, (), 1).scales
    assert scale.best_loss == 0.2


def test_a_sweep_of_an_accuracy_that_breaks_off_is_answered_near_its_peak(tmp_path: Path) -> None:
    """The rule may be changed afterwards, and nothing is trained again for it."""
    lrs = [BEST * 2.0**u for u in range(-3, 3)]
    metric = {"key": "accuracy", "goal": "maximize"}
    write_sweep(tmp_path, ACCURACY, metric=metric)
    arguments = ["sweep", "bowl.yaml", f"space={{lr: {{values: {lrs}}}}}", "seeds=1"]
    swept = command(*arguments, cwd=tmp_path)
    folder = RunFolder(tmp_path / "runs" / "bowl")
    assert sorted(outcomes(folder).values()) == [DONE] * 15 + [FAILED] * 3
    assert swept.returncode == 3
    reason = "it exited with code 0 at step 2, where others of its scale reached step 4"
    assert swept.stdout.count(f"{reason}; it counts as failed (run.metric.missing)") == 3
    jobs = len(list(folder.jobs.glob("*.log")))
    again = command(*arguments, "run.metric.missing=diverged", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert sorted(outcomes(folder).values()) == [DIVERGED] * 3 + [DONE] * 15
    assert len(list(folder.jobs.glob("*.log"))) == jobs
    assert f"warning: 3 trials without a result count as diverged: width=32 lr=0.028 seed=0 ({reason});" in again.stdout
    assert read_json(folder.prediction)["hyperparameters"]["lr"]["value"] == pytest.approx(BEST, rel=0.15)
    assert "nats" not in again.stdout
    assert "optimum may differ" not in again.stdout  # four steps may be four epochs
    records = pd.read_csv(folder.path / "records.csv")
    assert records["loss"].max() == pytest.approx(0.88, abs=0.02)
    status = command("status", "bowl", cwd=tmp_path)
    assert "best accuracy" in status.stdout
    assert status.stdout.count("lr=0.007") == 3
