"""The callback for Lightning, in the trainer of its recipe: it reports, stops, resumes and cleans up."""

import math
import signal
from pathlib import Path

import pytest

from hptransfer.core.io import read_jsonl
from tests.support.recipes import Attempts, sweep_recipe

TRAINER = "examples/recipes/lightning/train.py"


def attempts(folder: Path, *options: str) -> Attempts:
    return Attempts(folder, TRAINER, "--width=32", "--lr=0.01", *options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    trial = attempts(tmp_path_factory.mktemp("lightning") / "trial", "--steps=200")
    assert trial.run() == 0
    return trial


def test_every_logged_step_is_reported_and_nothing_is_left(undisturbed: Attempts) -> None:
    assert sorted(undisturbed.curve("loss")) == list(range(10, 201, 10))
    assert {path.name for path in undisturbed.folder.iterdir()} == {"reported.jsonl", "output.txt"}


def test_a_stopped_training_resumes_at_the_step_where_it_stopped(tmp_path: Path, undisturbed: Attempts) -> None:
    trial = attempts(tmp_path / "trial", "--steps=200")
    assert trial.run(until=trial.rows) == 128 + signal.SIGTERM
    (checkpoint,) = (trial.folder / "lightning").iterdir()
    before = len(trial.rows())
    assert 10 * before <= int(checkpoint.stem) < 200
    assert trial.run() == 0
    assert trial.rows()[before]["step"] == 10 * (int(checkpoint.stem) // 10 + 1)
    assert sorted(trial.curve("loss")) == sorted(undisturbed.curve("loss"))
    # Lightning draws another order of the examples: the curves differ, but not by a start from nothing.
    assert trial.curve("loss")[200] == pytest.approx(undisturbed.curve("loss")[200], rel=0.3)
    assert not (trial.folder / "lightning").exists()


def test_a_divergence_is_reported(tmp_path: Path) -> None:
    trial = Attempts(tmp_path / "trial", TRAINER, "--width=32", "--lr=1e30", "--steps=40")
    trial.run()
    assert not all(map(math.isfinite, trial.curve("loss").values()))


@pytest.mark.slow
def test_the_recipe_is_swept(tmp_path: Path) -> None:
    folder = sweep_recipe(
        "lightning", tmp_path, "grid.width.values=[32]", "target.width=32", "space.lr.count=3", "space.lr.extend=0"
    )
    for trial in folder.read_trials():
        assert [point["step"] for point in read_jsonl(folder.curve_path(trial.id))] == list(range(10, 151, 10))
