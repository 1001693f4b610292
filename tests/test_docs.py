"""The documents say what is so: commands run, links lead somewhere, help is what is printed."""

import re
import shlex
from pathlib import Path

import pytest

from hptransfer.cli import VERBS
from hptransfer.config import compose
from hptransfer.core import errors
from tests.helpers import ROOT, command

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("hptransfer ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_is_one(line: str) -> None:
    """Verbs exist, sweeps compose with the overrides given, options are known."""
    _, verb, *rest = shlex.split(line)
    assert verb in VERBS
    if verb in ("plan", "sweep"):
        compose(rest[0], [word for word in rest[1:] if not word.startswith("--")])
    known = command(verb, "--help").stdout
    for word in rest:
        if word.startswith("--"):
            assert word in known


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 8


def test_the_readme_names_every_verb_and_exit_code() -> None:
    for verb in VERBS:
        assert f"`{verb}" in README or f"hptransfer {verb}" in README, verb
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    for code in codes:
        assert f"| {code} |" in README, code
        assert str(code) in command("--help").stdout


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile, target
