"""A changed script shows its difference, and can be accepted; files named by options belong to the identity."""

from contextlib import chdir
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from hptransfer.config.compose import compose
from hptransfer.core.io import read_json, write_json
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from tests.support.helpers import command

SWEEP = """\
defaults: [sweep, run: script, sampler: grid, launcher: inline, tracker: none, _self_]
name: s
run:
  command: ["{python}", train.py, --config=base.yaml, "{width}", "{lr}"]
  params: width
  tokens: 1
  metric: {pattern: 'loss (?P<loss>\\S+)'}
grid: {width: {values: [8, 16]}}
space: {lr: {values: [0.01, 0.02, 0.04, 0.08], extend: 0}}
target: {width: 32}
"""
TRAIN = """\
import math, sys
width, rate = int(sys.argv[2]), float(sys.argv[3])
print("loss", 2 + (math.log2(rate * width) + 2) ** 2 / 10)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(SWEEP)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "base.yaml").write_text("layers: 2\n")
    done = sweep(tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def sweep(here: Path, *words: str) -> CompletedProcess[str]:
    return command("sweep", "s.yaml", *words, cwd=here)


def test_a_file_behind_an_equals_sign_belongs_to_the_identity(here: Path) -> None:
    (here / "base.yaml").write_text("layers: 3\n")
    done = sweep(here)
    assert done.returncode == 2
    assert "--- base.yaml there\n+++ base.yaml here\n@@ -1 +1 @@\n-layers: 2\n+layers: 3\n" in done.stderr
    assert "the content of train.py, base.yaml has changed" in done.stderr
    assert "--accept-changed goes on with this version" in done.stderr
    assert "`hptransfer import SWEEP runs/s/records.csv name=NEW` keeps the trials" in done.stderr


def test_an_accepted_change_is_recorded_and_named_by_every_prediction(here: Path) -> None:
    before = read_json(here / "runs/s/target.json")["fingerprint"]
    (here / "train.py").write_text(TRAIN + "# a comment\n")
    assert sweep(here).returncode == 2
    done = sweep(here, "--accept-changed")
    assert done.returncode == 0
    target = read_json(here / "runs/s/target.json")
    after = target["fingerprint"]
    assert [(known["fingerprint"], known["trials"]) for known in target["earlier_fingerprints"]] == [(before, 8)]
    assert f"fingerprints {before} (the first 8 trials) and {after}" in done.stdout
    for later in (sweep(here), command("analyze", "s", cwd=here)):
        assert f"fingerprints {before} (the first 8 trials) and {after}" in later.stdout
    assert read_json(here / "runs/s/prediction.json")["fingerprints"] == [before, after]
    assert f'"{before}"' in command("export", "s", cwd=here).stdout
    assert before in (here / "runs/s/report.html").read_text()
    (here / "train.py").write_text(TRAIN + "# another\n")
    assert sweep(here).returncode == 2


def test_a_changed_setting_is_not_accepted(here: Path) -> None:
    done = sweep(here, "run.metric.reduce=minimum", "--accept-changed")
    assert (done.returncode, "run.metric.reduce is last there, minimum here" in done.stderr) == (2, True)


def test_the_trials_are_kept_under_another_name(here: Path) -> None:
    table = here / "runs/s/records.csv"
    lines = table.read_text().splitlines()
    columns = lines[0].split(",")
    for state, loss in (("diverged", ""), ("failed", ""), ("waiting", "")):
        row = dict(zip(columns, lines[1].split(","), strict=True)) | {"state": state, "loss": loss, "lr": "0.5"}
        row["seed"] = {"diverged": "0", "failed": "1", "waiting": "2"}[state]
        lines.append(",".join(row.values()))
    table.write_text("\n".join(lines))
    (here / "train.py").write_text(TRAIN + "# a comment\n")
    done = command("import", "s.yaml", "runs/s/records.csv", "name=kept", cwd=here)
    assert "9 trials imported" in done.stdout
    folder = RunFolder(here / "runs/kept")
    outcomes = [folder.read_outcome(trial.id) for trial in folder.read_trials()]
    assert sorted(outcome.state for outcome in outcomes if outcome) == ["diverged"] + ["done"] * 8
    assert command("import", "s", "runs/s/records.csv", "name=kept", cwd=here).returncode == 2


def test_a_run_of_an_earlier_version_is_resumed(here: Path) -> None:
    """It hashed no files of options, and named none."""
    folder = RunFolder(here / "runs/s")
    with chdir(here):
        plan = make_plan(compose("s.yaml"))
        earlier = plan.runner.earlier_fingerprint(plan.run(plan.target))
    target = {key: value for key, value in read_json(folder.target).items() if key not in ("files", "schema")}
    assert earlier != target["fingerprint"]
    write_json(folder.target, target | {"fingerprint": earlier})
    assert sweep(here).returncode == 0
    (here / "train.py").write_text(TRAIN + "# a comment\n")
    write_json(folder.target, target | {"fingerprint": earlier})
    assert sweep(here).returncode == 2


def test_plan_shows_the_difference_without_changing_anything(here: Path) -> None:
    (here / "train.py").write_text(TRAIN + "# a comment\n")
    before = (here / "runs/s/target.json").read_bytes()
    done = command("plan", "s.yaml", cwd=here)
    assert done.returncode == 0
    assert "+# a comment" in done.stdout
    assert "sweep would refuse this: runs/s belongs to another sweep" in done.stdout
    assert (here / "runs/s/target.json").read_bytes() == before


def test_a_file_without_text_shows_no_difference(here: Path) -> None:
    (here / "base.yaml").write_bytes(b"\xff\xfe")
    done = sweep(here)
    assert (done.returncode, "base.yaml: no text of its earlier content is kept" in done.stderr) == (2, True)
