"""Run folders of version 0.1 stay readable, and the renamed sweep file extends them."""

import json
import shutil
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config.sweep import load_sweep
from hptransfer.core.io import read_json
from hptransfer.core.run_folder import RunFolder
from tests.support.helpers import command

DATA = Path(__file__).parent / "data"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run of version 0.1 and its sweep file in the words of today."""
    shutil.copytree(DATA / "version-0.1", tmp_path / "runs" / "version-0.1")
    shutil.copy(DATA / "version-0.1.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command in this process, which must succeed; return what it printed."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    return printed.out


def trained(run: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every outcome."""
    paths = (run / "trials").glob("*/outcome.json")
    return {path.parent.name: (path.read_text(), path.stat().st_mtime_ns) for path in paths}


def test_old_words_are_read_as_the_new_ones(here: Path) -> None:
    config = load_sweep(RunFolder(here / "runs" / "version-0.1"))
    assert (config.scales, config.design) == ("one_at_a_time", "one_at_a_time")
    assert {name: tuned.transform for name, tuned in config.space.items()} == {"lr": None, "beta1": "one_minus"}


def test_it_is_shown_analyzed_and_exported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "34/34 trials" in run(capsys, "status", "version-0.1")
    analyzed = run(capsys, "analyze", "version-0.1")
    assert "recommended beta1 for width=64, tokens=65536: " in analyzed
    assert "version-0.1/target.json is of version 0.1, without rules of parameter groups" in analyzed
    tuned = read_json(here / "runs" / "version-0.1" / "prediction.json")["hyperparameters"]["beta1"]["value"]
    groups = json.loads(run(capsys, "export", "version-0.1"))["groups"]
    assert [group["beta1"] for group in groups.values()] == pytest.approx([1 - tuned] * len(groups))


@pytest.mark.slow
def test_the_renamed_sweep_file_trains_nothing_again(here: Path) -> None:
    folder = here / "runs" / "version-0.1"
    before = trained(folder)
    refused = command("sweep", "version-0.1.yaml", cwd=here)
    assert refused.returncode == 2
    assert "by an earlier version" in refused.stderr
    swept = command("sweep", "version-0.1.yaml", "--trust", cwd=here)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "recommended lr for width=64, tokens=65536: 0.03958" in swept.stdout
    assert trained(folder) == before
    assert "without rules of parameter groups" not in swept.stdout
    assert "Settings of the target" in (folder / "report.html").read_text()
    assert "one_at_a_time" in (folder / "sweep.yaml").read_text()
    assert read_json(folder / "target.json")["complement"] == ["beta1"]


@pytest.mark.slow
def test_it_is_verified(here: Path) -> None:
    verified = command("verify", "version-0.1", "width=8", "tokens=2048", "--trust", cwd=here)
    assert "verified at width=8,tokens=2048" in verified.stdout, verified.stdout + verified.stderr
    assert (here / "runs" / "version-0.1" / "verification-width=8,tokens=2048.json").exists()


@pytest.mark.parametrize(
    ("new", "old", "message"),
    [
        (
            "\nscales: one_at_a_time",
            "\nscales: plus",
            "scales: 'plus' is called 'one_at_a_time' since version 0.2; write scales: one_at_a_time "
            "(version-0.1.yaml)",
        ),
        (
            "\ndesign: one_at_a_time",
            "\ndesign: plus",
            "design: 'plus' is called 'one_at_a_time' since version 0.2; write design: one_at_a_time "
            "(version-0.1.yaml)",
        ),
        (
            "transform: one_minus",
            "complement: true",
            "space.beta1.complement is called transform since version 0.2; write transform: one_minus "
            "(version-0.1.yaml)",
        ),
    ],
)
def test_an_old_word_in_a_sweep_file_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], new: str, old: str, message: str
) -> None:
    path = here / "version-0.1.yaml"
    path.write_text(path.read_text().replace(new, old))
    with pytest.raises(SystemExit) as end:
        main(["sweep", "version-0.1.yaml"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"hptransfer: {message}"]
