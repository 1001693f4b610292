"""The pages of the documentation: their blocks of code, their commands and their sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.helpers import ROOT

CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "recipes").glob("*.md")),
    ROOT / "examples" / "README.md",
    CHANGELOG,
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"``?([^`]+)``?")


class Block(NamedTuple):
    """A fenced block of code, with a name for the test's id."""

    page: str
    number: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}-{self.number}"

    @property
    def file(self) -> str | None:
        """The file's name that the first line says, as in `# train.py`."""
        match = re.match(r"# ([\w./]+)\n", self.text)
        return match[1] if match else None


def page_name(document: Path) -> str:
    """The page's path without its suffix, such as docs/clusters."""
    return document.relative_to(ROOT).with_suffix("").as_posix()


def blocks(document: Path, *languages: str) -> list[Block]:
    found = [Block(page_name(document), n, *match) for n, match in enumerate(FENCED.findall(document.read_text()))]
    return [block for block in found if block.language in languages]


def prose(text: str) -> str:
    """A page's text without blocks of code."""
    return FENCED.sub("", text)


def shell_commands(document: Path) -> Iterator[str]:
    """Every line of a block of shell, continued lines joined."""
    for block in blocks(document, "bash", "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def inline_code(document: Path) -> Iterator[str]:
    """Every piece of code between backticks in the prose and the tables."""
    for code in INLINE.findall(prose(document.read_text())):
        yield " ".join(code.split())


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page without tables, headings and code; a code or an interval is one word."""
    text = prose(text)
    text = re.sub(r"^(\||#).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*[-*] ", "\n\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        joined = INLINE.sub("CODE", " ".join(paragraph.split()))
        joined = re.sub(r"\]\([^)]*\)", "]", joined)
        joined = re.sub(r"\[[-+.\d]+, [-+.\d]+\]", "INTERVAL", joined)
        yield from filter(None, re.split(r"(?<=[.!?:;])[)*\"]* (?=[A-Z(*\[\"\d])", joined))


def commas(sentence: str) -> int:
    """The commas of a sentence, without those inside numbers."""
    return len(re.findall(r",(?!\d)", sentence))
