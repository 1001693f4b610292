"""What `hptransfer init` writes composes and plans as it is, and nothing is overwritten."""

from pathlib import Path

from tests.support.helpers import command


def test_the_file_plans_as_it_is(tmp_path: Path) -> None:
    written = command("init", "script", "mine.yaml", cwd=tmp_path)
    assert (written.returncode, written.stderr) == (0, "")
    assert "hptransfer plan mine.yaml" in written.stdout
    planned = command("plan", "mine.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "total: 21 trials" in planned.stdout
    again = command("init", "script", "mine.yaml", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "hptransfer: mine.yaml exists, and is not overwritten; give another FILE\n"


def test_kinds_are_listed_and_near_ones_named(tmp_path: Path) -> None:
    assert command("init", cwd=tmp_path).stdout.startswith("script ")
    wrong = command("init", "scirpt", cwd=tmp_path)
    assert (wrong.returncode, "Did you mean 'script'?" in wrong.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
