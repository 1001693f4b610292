"""The first line of every docstring is an imperative or a noun phrase of at most twelve words."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.prose import FOREIGN

PACKAGE = Path(__file__).parents[1] / "hptransfer"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_WORDS = 12
RELATIVE = re.compile(
    r"(what|whether|which|who|whose|whom|of|such|how|where|when|why|as|so|that|those|these|it|there|here|its|also|"
    r"the same|one line|all that|if|has|gives|takes|turns|lets|says|does|makes)\b",
    re.IGNORECASE,
)

# Methods of PyTorch's base classes, which PyTorch documents.
TORCH_METHODS = {"Module": {"forward"}, "Optimizer": {"step"}}


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


def classes(path: Path) -> Iterator[ast.ClassDef]:
    """The classes of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The public methods and properties of a class."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            yield method


class Inheritance:
    """The package's classes by name, to look up the docstrings that methods inherit."""

    def __init__(self, nodes: Iterable[ast.ClassDef]) -> None:
        self._nodes: dict[str, list[ast.ClassDef]] = {}
        for node in nodes:
            self._nodes.setdefault(node.name, []).append(node)

    def documents(self, node: ast.ClassDef, method: str) -> bool:
        """Return True if the class or one of its bases documents the method."""
        if any(own.name == method and ast.get_docstring(own) for own in methods(node)):
            return True
        bases = [re.sub(r"\[.*|.*\.", "", ast.unparse(base)) for base in node.bases]
        return any(
            method in TORCH_METHODS.get(base, ())
            or any(self.documents(parent, method) for parent in self._nodes.get(base, ()))
            for base in bases
        )


def test_public_methods_are_documented() -> None:
    """An override of a documented method needs no docstring of its own."""
    inheritance = Inheritance(node for path in FILES for node in classes(path))
    missing = [
        f"{path.relative_to(PACKAGE)}:{method.lineno}: {node.name}.{method.name}"
        for path in FILES
        for node in classes(path)
        if not node.name.startswith("_")
        for method in methods(node)
        if not inheritance.documents(node, method.name)
    ]
    assert not missing, "\n".join(missing)


def test_inherited_docstrings_count() -> None:
    """The control: an override is documented by its base, a new method by nothing."""
    base, child = ast.parse(
        'class Base:\n    def a(self):\n        "Do."\nclass Child(Base):\n    def a(self): ...\n    def b(self): ...'
    ).body
    assert isinstance(base, ast.ClassDef)
    assert isinstance(child, ast.ClassDef)
    assert Inheritance([base, child]).documents(child, "a")
    assert not Inheritance([base, child]).documents(child, "b")
    assert not Inheritance([child]).documents(child, "a")


def test_first_lines_are_short_and_name_the_thing() -> None:
    for path in FILES:
        for name, doc in docstrings(path):
            assert doc is not None, f"{path}: {name} has no docstring"
            first = doc.split("\n")[0].strip()
            assert first, f"{path}: the docstring of {name} has no first line"
            assert len(first.split()) <= MOST_WORDS, f"{path}: {name}: {first}"


def test_hardly_a_first_line_opens_with_a_relative() -> None:
    lines = [doc.split("\n")[0].strip() for path in FILES for _, doc in docstrings(path) if doc]
    relative = [line for line in lines if RELATIVE.match(line)]
    assert len(relative) < 0.02 * len(lines), "\n".join(relative)


def test_the_text_speaks_the_language_of_the_field() -> None:
    for path in FILES:
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
