"""The first line of every docstring is an imperative or a noun phrase of at most twelve words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prose import FOREIGN

PACKAGE = Path(__file__).parents[1] / "hptransfer"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_WORDS = 12
RELATIVE = re.compile(
    r"(what|whether|which|who|whose|whom|of|such|how|where|when|why|as|so|that|those|these|it|there|here|its|also|"
    r"the same|one line|all that|if|has|gives|takes|turns|lets|says|does|makes)\b",
    re.IGNORECASE,
)


def docstrings(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every module, and every class and function of it that has a public name, with its docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield "module", ast.get_docstring(tree, clean=False)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef | ast.FunctionDef)
            and (doc := ast.get_docstring(node, clean=False)) is not None
        ):
            yield node.name, doc
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, ast.get_docstring(node, clean=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_first_lines_are_short_and_name_the_thing(path: Path) -> None:
    for name, doc in docstrings(path):
        assert doc is not None, f"{path}: {name} has no docstring"
        first = doc.split("\n")[0].strip()
        assert first, f"{path}: the docstring of {name} has no first line"
        assert len(first.split()) <= MOST_WORDS, f"{path}: {name}: {first}"


def test_hardly_a_first_line_opens_with_a_relative() -> None:
    lines = [doc.split("\n")[0].strip() for path in FILES for _, doc in docstrings(path) if doc]
    relative = [line for line in lines if RELATIVE.match(line)]
    assert len(relative) < 0.02 * len(lines), "\n".join(relative)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_text_speaks_the_language_of_the_field(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not FOREIGN.search(line), f"{path}:{number}: {line.strip()}"


def test_the_rules_find_what_they_are_for() -> None:
    """The control: sentences that the rules are to refuse."""
    assert RELATIVE.match("What a driver knows of its trials")
    assert RELATIVE.match("Of every scale, cheapest first.")
    assert not RELATIVE.match("Index of all trials by scale.")
    assert FOREIGN.search("a job of so many trials")
    assert FOREIGN.search("raises if it is no number")
    assert not FOREIGN.search("there is no checkpoint; it is no longer needed")
