"""The callback for Hugging Face's Trainer, in the trainer of its recipe: it reports, stops, resumes and cleans up."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hptransfer.core.io import read_jsonl
from tests.support.helpers import environment
from tests.support.recipes import Attempts, sweep_recipe

FLAGS = ("--width=32", "--learning_rate=0.01", "--max_steps=60", "--logging_steps=5", "--use_cpu=true")
QUIET = ("--report_to=none", "--disable_tqdm=true")


def attempts(folder: Path, *flags: str) -> Attempts:
    output = f"--output_dir={folder / 'output'}"
    return Attempts(folder, "examples/recipes/transformers/train.py", *FLAGS, *QUIET, output, *flags)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    trial = attempts(tmp_path_factory.mktemp("transformers") / "trial")
    assert trial.run() == 0, trial.output()
    return trial


def test_every_logged_step_is_reported_and_no_checkpoint_is_left(undisturbed: Attempts) -> None:
    assert list(undisturbed.curve("loss")) == list(range(5, 61, 5))
    assert "train_runtime" not in {key for row in undisturbed.rows() for key in row}
    assert not list(undisturbed.folder.rglob("checkpoint-*"))


def test_a_stopped_training_resumes_with_the_losses_of_an_undisturbed_one(
    tmp_path: Path, undisturbed: Attempts
) -> None:
    trial = attempts(tmp_path / "trial")
    assert trial.run(until=trial.rows) == 128 + signal.SIGTERM, trial.output()
    (checkpoint,) = (trial.folder / "output").glob("checkpoint-*")
    before = len(trial.rows())
    assert trial.run() == 0, trial.output()
    first = 5 * (int(checkpoint.name.partition("-")[2]) // 5 + 1)
    assert trial.rows()[before]["step"] == first
    # The first mean after the resume has the steps since then alone.
    resumed, expected = trial.curve("loss"), undisturbed.curve("loss")
    assert {**resumed, first: None} == {**expected, first: None}
    assert resumed[first] == pytest.approx(expected[first], rel=0.1)


def test_a_killed_training_resumes_from_its_last_complete_checkpoint(tmp_path: Path, undisturbed: Attempts) -> None:
    trial = attempts(tmp_path / "trial", "--save_steps=10")
    saved = trial.folder / "output" / "checkpoint-20" / "trainer_state.json"
    assert trial.run(until=saved.exists, number=signal.SIGKILL) == -signal.SIGKILL
    cut_off = trial.folder / "output" / "checkpoint-55"
    cut_off.mkdir()
    (cut_off / "trainer_state.json").write_text('{"global_step"')
    before = len(trial.rows())
    assert trial.run() == 0, trial.output()
    assert 20 < trial.rows()[before]["step"] < 55
    assert trial.curve("loss") == undisturbed.curve("loss")


def test_a_loss_that_is_not_finite_is_reported_as_it_is(tmp_path: Path) -> None:
    """The Trainer's own filter replaces it by the mean of the finite ones."""
    trial = attempts(tmp_path / "trial", "--learning_rate=1e20", "--max_steps=15")
    trial.run()
    assert not all(map(math.isfinite, trial.curve("loss").values())), trial.output()


def test_without_a_trial_the_callback_changes_nothing(tmp_path: Path) -> None:
    lines = (
        "from types import SimpleNamespace",
        "from hptransfer.integrations.transformers import TrialCallback, last_checkpoint",
        "import signal",
        "arguments = SimpleNamespace(logging_nan_inf_filter=True, save_total_limit=None)",
        "TrialCallback().on_train_begin(arguments, None, None)",
        "assert (arguments.logging_nan_inf_filter, arguments.save_total_limit) == (True, None)",
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL",
        "assert last_checkpoint('.') is None",
    )
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text("{}")
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, env=environment(), check=True)


@pytest.mark.slow
def test_the_recipe_is_swept(tmp_path: Path) -> None:
    one_scale = ("grid.width.values=[32]", "target.width=32", "space.lr.count=3", "space.lr.extend=0")
    folder = sweep_recipe("transformers", tmp_path, *one_scale)
    for trial in folder.read_trials():
        curve = read_jsonl(folder.curve_path(trial.id))
        assert [point["step"] for point in curve if point["loss"]] == [20, 40, 60]
