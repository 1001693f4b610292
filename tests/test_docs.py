"""The pages agree with the code: commands and sweep files work, links lead somewhere, tables are complete."""

import argparse
import ast
import csv
import math
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from docs.generators.measured_checks import measured_markdown, read_measured
from docs.generators.parameterization_tables import markdown
from hptransfer.analysis.pipeline import analyze_run
from hptransfer.cli.main import VERBS
from hptransfer.cli.start import FAMILY_PACKAGES
from hptransfer.config.compose import compose
from hptransfer.config.package_data import templates
from hptransfer.config.sweep import SweepConfig
from hptransfer.coordcheck.check_config import compose_check
from hptransfer.core import errors
from hptransfer.core.errors import ConfigError
from hptransfer.core.records import CAUSES
from hptransfer.core.redaction import REFERENCE
from hptransfer.core.registry import Registry
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.preview import preview
from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.planning.plan import jobs_of, make_plan
from hptransfer.verify import Verification
from hptransfer.worker.runners.builtin import CPU_JOBS
from tests.support.helpers import ROOT, command, finished_run
from tests.support.pages import (
    CHANGELOG,
    DOCUMENTS,
    FENCED,
    Block,
    blocks,
    commas,
    inline_code,
    page_name,
    prose,
    sentences,
    shell_commands,
)
from tests.support.prose import FOREIGN

README = (ROOT / "README.md").read_text()
# The pages without the changelog, which has the words of earlier versions too.
PAGES = [path for path in DOCUMENTS if path != CHANGELOG]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Files exist, and so do the headings that are linked."""
    for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text()):
        if not target.startswith("http"):
            path = document.parent / target if target else document
            assert path.exists(), target
            if heading:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
                assert heading in anchors, f"{target}#{heading}"


YAML = [block for document in DOCUMENTS for block in blocks(document, "yaml", "yml")]
WHOLE = [block for block in YAML if "defaults:" in block.text]
# Sweep files in pieces: blocks without defaults, and mappings in the text such as `retry: {killed: {attempts: 1}}`.
FRAGMENTS = [block for block in YAML if "defaults:" not in block.text]
FRAGMENTS += [
    Block(page_name(document), number, "inline", code)
    for document in DOCUMENTS
    for number, code in enumerate(inline_code(document))
    if re.fullmatch(r"\w+: \{.*\}", code)
]


def merged(base: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with the keys of another one, branch by branch."""
    return {
        **base,
        **{
            key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
            for key, value in part.items()
        },
    }


def with_fragment(fragment: Block) -> str:
    """The nearest whole sweep file above a fragment, or the quickstart, with the fragment's keys."""
    above = [block for block in WHOLE if block.page == fragment.page]
    if fragment.language != "inline":
        above = [block for block in above if block.number < fragment.number]
    base = above[-1].text if above else (ROOT / "sweeps" / "quickstart.yaml").read_text()
    return yaml.safe_dump(merged(yaml.safe_load(base), yaml.safe_load(fragment.text)), sort_keys=False)


def planned(text: str, folder: Path) -> None:
    """Compose and plan a sweep file beside the scripts that it names; its launcher takes what it is told."""
    for script in re.findall(r"[\w./]+\.py\b", text):
        (folder / script).parent.mkdir(parents=True, exist_ok=True)
        (folder / script).touch()
    tree = yaml.safe_load(text)
    for template in tree["run"].get("files", {}).values():
        (folder / template).write_text("".join(f"{{{{ {key} }}}}\n" for key in [*tree["grid"], *tree["space"]]))
    (folder / "page.yaml").write_text(text)
    plan = make_plan(compose("page.yaml"))
    assert plan.flops() > 0
    if isinstance(launcher := plan.config.launcher, SlurmConfig):
        jobs = [job for scale in plan.scales for job in jobs_of(plan, scale)]
        assert "#SBATCH" in "".join(preview(launcher, plan.config.folder, jobs))


@pytest.mark.parametrize("block", WHOLE, ids=lambda block: block.id)
def test_every_sweep_file_of_the_pages_can_be_planned(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned(block.text, tmp_path)


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.id)
def test_every_fragment_of_the_pages_fits_a_sweep_file(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in REFERENCE.findall(block.text):
        monkeypatch.setenv(name, "exported")
    planned(with_fragment(block), tmp_path)


@pytest.mark.parametrize("key", ["luancher: {gpus: 1}", "launcher: {gpu: 1}", "run: {model: {widht: 64}}"])
def test_a_wrong_key_on_a_page_is_found(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a whole file and a fragment with a key that no sweep has."""
    monkeypatch.chdir(tmp_path)
    page = next(block for block in WHOLE if block.page == "docs/clusters" and "run: builtin" in block.text)
    with pytest.raises(ConfigError):
        planned(with_fragment(Block(page.page, page.number + 1, "yaml", key)), tmp_path)


def test_the_pages_have_sweep_files_and_fragments() -> None:
    assert len(WHOLE) >= 4
    assert len(FRAGMENTS) >= 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=page_name)
def test_all_code_of_the_pages_is_fenced(document: Path) -> None:
    """A block of code that is indented alone would escape the tests of commands and of sweep files."""
    assert not re.findall(r"\n\n    +[^\s].*", prose(document.read_text()))
    assert document.read_text().count("```") % 2 == 0


OLD_WORDS = re.compile(r"\bunmoved\b|\bbowls?\b|\b(taken|held) back\b|: plus\b|\bhptransfer[./]sweep\b", re.IGNORECASE)


@pytest.mark.parametrize("document", PAGES, ids=page_name)
def test_the_pages_use_the_words_of_the_glossary(document: Path) -> None:
    assert not OLD_WORDS.findall(document.read_text())


class Parser(argparse.ArgumentParser):
    """A parser that refuses a command by an exception, and no option's beginning passes for the option."""

    def __init__(self) -> None:
        super().__init__(allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


# Names that stand for a user's own in the text.
PLACEHOLDERS = re.compile(r"\b(VERB|MODEL|OPTIMIZER|PARAMETERIZATION)\b")
# Members of examples/extension, and members of this package in their place.
EXTENSION = {"run/optimizer=signum": "run/optimizer=lion", "power,curved": "power,drift"}
# Programs of others on the pages, and words of the shell.
OTHER_PROGRAMS = {"make", "mlflow", "pip", "printf", "source", "export"}


def commands(document: Path) -> list[str]:
    """The commands of a page: lines of blocks of shell, and commands of hptransfer and of this checkout in the text.

    `hptransfer retry` in a sentence names the verb; it counts as a command if anything follows the verb.
    """
    inline = [
        code
        for code in inline_code(document)
        if re.match(r"hptransfer [\w-]+ \S|python (-m )?(benchmarks|docs|examples)\b", code)
        and not PLACEHOLDERS.search(code)
    ]
    return [*shell_commands(document), *inline]


def write_files(document: Path, folder: Path) -> None:
    """Write the scripts and sweep files of a page that say their names, and what `init` would write."""
    for block in blocks(document, "python", "yaml"):
        if block.file:
            (folder / block.file).write_text(block.text)
    (folder / "my_sweep.yaml").write_text(templates()["script"].read_text())
    (folder / "examples").symlink_to(ROOT / "examples")


def sweep_of(run: str) -> SweepConfig:
    """The sweep of a run that a page names: a sweep of this checkout, or a file of the page by its `name`."""
    for path in Path().glob("*.yaml"):
        if f"name: {run}\n" in path.read_text():
            return compose(path.name)
    return compose(run)


def check_axes(run: str, pairs: list[str]) -> None:
    for pair in pairs:
        axis, value = pair.split("=")
        assert axis in sweep_of(run).grid
        float(value)


def check_hptransfer(words: list[str]) -> None:
    """Parse a command of hptransfer, and check what its verb would check before anything runs."""
    verb, *rest = (EXTENSION.get(word, word) for word in words)
    if verb.startswith("-"):
        return
    parser = Parser()
    VERBS[verb].arguments(parser)
    args = parser.parse_intermixed_args(rest)
    match verb:
        case "plan" | "sweep":
            compose(args.sweep, args.overrides)
        case "verify":
            check_axes(args.run, args.overrides)
        case "cancel" | "retry":
            check_axes(args.run, args.scale)
            assert set(getattr(args, "cause", [])) <= set(CAUSES)
        case "coord-check":
            compose_check(args.overrides)
        case "analyze":
            assert set((args.laws or "power").split(",")) <= set(Registry("law", FAMILY_PACKAGES["law"]).names())
        case "init":
            assert args.kind in templates()
        case "import":
            assert all("=" in pair for pair in args.columns)
        case "list":
            assert args.family in (None, "sweep", *FAMILY_PACKAGES)


class ArgumentsParsedError(Exception):
    """A script's arguments were accepted."""


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a script or module until it has parsed its arguments."""
    path = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
    file = next(path for path in (Path(path), ROOT / path) if path.exists())
    if "ArgumentParser" not in file.read_text():
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise ArgumentsParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.setattr(sys, "argv", [path, *words[words[0] == "-m" :][1:]])
    with pytest.raises(ArgumentsParsedError):
        runpy.run_path(str(file), run_name="__main__")


COMMANDS = [(document, line) for document in DOCUMENTS for line in commands(document)]


@pytest.mark.parametrize(("document", "line"), COMMANDS, ids=[f"{page_name(d)}: {line}" for d, line in COMMANDS])
def test_every_command_of_the_pages_is_accepted(
    document: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verbs, options, overrides and members exist; scripts and benchmarks take their arguments."""
    monkeypatch.chdir(tmp_path)
    write_files(document, tmp_path)
    check_command(line, monkeypatch)


def check_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if words[0] == "hptransfer":
        check_hptransfer(words[1:])
    elif words[0] == "python":
        check_python(words[1:], monkeypatch)
    else:
        assert words[0] in OTHER_PROGRAMS


@pytest.mark.parametrize(
    "line",
    [
        "hptransfer swep quickstart",
        "hptransfer sweep quickstart --detatch",
        "hptransfer sweep quickstart run.widht=3",
        "hptransfer verify quickstart height=3",
        "hptransfer retry quickstart --cause boredom",
        "python benchmarks/gpu.py --colour",
        "python benchmarks/nothing.py",
    ],
)
def test_a_wrong_command_on_a_page_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a verb, an option, a key, an axis, a cause and scripts that do not exist."""
    with pytest.raises((ConfigError, KeyError, AssertionError, SystemExit, StopIteration)):
        check_command(line, monkeypatch)


def test_the_pages_have_commands() -> None:
    assert len([line for document, line in COMMANDS if document.parent == ROOT]) >= 8
    assert len(COMMANDS) >= 90


def test_every_page_is_linked_from_the_readme() -> None:
    """Every page is one click from the README, the glossary on its first screen."""
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name}" in README, path.name
    assert "docs/glossary.md" in README[: README.index("## Install")]
    assert "(glossary.md)" in page("architecture")


def test_every_verb_and_exit_code_has_its_line() -> None:
    for verb in VERBS:
        assert f"| `{verb}` |" in page("commands"), verb
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    for code in codes:
        assert f"| {code} |" in page("exit-codes"), code
        assert str(code) in command("--help").stdout


def test_the_make_targets_of_the_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), flags=re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{document.name}: {target}"


def test_the_readme_starts_with_an_installation() -> None:
    assert README.index("make setup") < README.index(".venv/bin/activate") < README.index("make demo")
    assert "make test " in README


def test_the_tables_of_parameterizations_are_the_codes() -> None:
    text = page("parameterizations")
    made = markdown()
    measured = measured_markdown(read_measured(ROOT / "docs" / "coordinate_checks.csv"))
    command = "python -m docs.generators.parameterization_tables docs/coordinate_checks.csv"
    assert text[text.index("## ") :] == made + measured, f"run: {command}"
    assert made.count("\n## ") + 1 == len(PARAMETERIZATIONS.names())


def test_the_jobs_on_the_page_are_those_that_sweeps_make() -> None:
    text = page("performance")
    rows = re.findall(r"^\| (below [0-9.e+]+|more) \| (\d+) \|", text, flags=re.MULTILINE)
    limits = {math.inf if limit == "more" else float(limit.removeprefix("below ")): int(size) for limit, size in rows}
    assert limits == CPU_JOBS
    plan = make_plan(compose("quickstart", ["grid.width.values=[32,64,128,256]", "grid.depth.values=[4]"]))
    found = {scale.axes["width"]: plan.runner.job_size(plan.run(scale), gpu=False) for scale in plan.scales}
    assert "the quickstart at widths 32, 64 and 128" in text
    assert found == {32: 4, 64: 4, 128: 4, 256: 1}


PACKAGE = ROOT / "hptransfer"


def test_the_architecture_names_what_there_is() -> None:
    """Every package and every module of the trainer is named; every path that is named exists."""
    text = page("architecture")
    packages = [path.parent.relative_to(PACKAGE) for path in PACKAGE.glob("**/__init__.py") if path.parent != PACKAGE]
    assert len(packages) > 20
    for package in packages:
        assert f"`{package}/`" in text, package
    for path in PACKAGE.glob("training/*.py"):
        if path.name != "__init__.py":
            assert f"`{path.relative_to(PACKAGE)}`" in text, path
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


def test_the_figure_of_layers_has_every_package() -> None:
    figure = FENCED.findall(page("architecture"))[0][1]
    for path in PACKAGE.iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f" {path.name}/" in figure, path.name
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f" {path.name}" in figure, path.name


def test_the_architecture_names_classes_and_members_that_exist() -> None:
    """`Runner.identity_settings` is a class and its member; `Residual` alone is a class."""
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    names = re.findall(r"`([A-Z][a-z]\w+)(?:\.(\w+))?`", page("architecture"))
    assert len(names) > 8
    for name, member in names:
        assert re.search(rf"^class {name}\b", source, flags=re.MULTILINE), name
        if member:
            assert re.search(
                rf"^    (?:def {member}\b|{member}: |{member} = )|self\.{member}\b", source, re.MULTILINE
            ), member


def test_the_architecture_names_every_file_of_a_run() -> None:
    """The files and folders that the properties and methods of RunFolder lead to, and the writers' constants."""
    table = page("architecture").partition("## Layers")[0]
    source = (PACKAGE / "core" / "run_folder.py").read_text().partition("@dataclass")[2]
    names = re.findall(r'/ f?"([\w.{}]+\.(?:json|jsonl|yaml|lock|journal|db|html|checkpoint))"', source)
    assert len(names) > 12
    for name in names:
        assert re.sub(r"\{\w+\}", "<id>", name, count=1).replace("{stack}", "<stack>") in table, name
    assert "`verification-<scale>.json`" in table


@pytest.mark.parametrize("document", PAGES, ids=page_name)
def test_the_pages_name_no_private_module(document: Path) -> None:
    assert not re.findall(r"\b_\w+\.py\b", document.read_text())


GLOSSARY = page("glossary")
CARRIERS = re.findall(r"`(\w+)` in `([\w/]+(?:\.py|/))`", GLOSSARY)


@pytest.mark.parametrize(("name", "place"), CARRIERS)
def test_the_glossary_names_classes_where_they_are(name: str, place: str) -> None:
    """A module defines the class; a package exports it."""
    if place.endswith("/"):
        assert hasattr(import_module(f"hptransfer.{place[:-1].replace('/', '.')}"), name)
    else:
        source = (PACKAGE / place).read_text()
        assert re.search(rf"^(?:class|def) {name}\b|^{name} = ", source, flags=re.MULTILINE), f"{place} has no {name}"


def test_every_term_of_the_glossary_is_one_sentence_with_its_carrier() -> None:
    rows = re.findall(r"^\| \*\*.*?\*\* \| (.*?) \|", GLOSSARY, flags=re.MULTILINE)
    assert 25 <= len(rows) == len(CARRIERS) <= 30
    for meaning in rows:
        assert re.fullmatch(r"[A-Z].*[^.]\.", meaning), meaning
        assert ". " not in meaning, meaning


def renamed(heading: str) -> list[tuple[str, str]]:
    """The rows of a table of renamed things in the changelog."""
    table = CHANGELOG.read_text().partition(f"\n{heading}")[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    return [(old.strip(), new.strip()) for _, old, new, _ in (line.split("|") for line in table.splitlines())]


@pytest.mark.parametrize("heading", ["Words of", "Modules, below", "Classes:", "Functions and methods:"])
def test_the_tables_of_renamed_things_are_sorted(heading: str) -> None:
    old = [re.sub(r"[`\"]", "", row[0]).lower() for row in renamed(heading)]
    assert len(old) > 8
    assert old == sorted(old)


def test_the_new_names_of_the_changelog_exist() -> None:
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for _, new in renamed("Modules, below"):
        for module in re.findall(r"`([\w.]+)`", new):
            path = PACKAGE / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module
    for _, new in [*renamed("Classes:"), *renamed("Functions and methods:")]:
        name = new.strip("`").rpartition(".")[2]
        assert re.search(
            rf"^\s*(?:class|def) {name}\b|^(?:    )?(?:\w+, )*{name}(?:, \w+)*(?:: | = )", source, flags=re.MULTILINE
        ), name


MOST_COMMAS = 4


def text_of(document: Path) -> str:
    """A page's text; of the changelog that of the version in the making."""
    return document.read_text().partition("## 0.1.0")[0] if document == CHANGELOG else document.read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=page_name)
def test_sentences_of_the_pages_are_short(document: Path) -> None:
    for sentence in sentences(text_of(document)):
        assert commas(sentence) <= MOST_COMMAS, sentence


@pytest.mark.parametrize("document", PAGES, ids=page_name)
def test_the_pages_speak_the_language_of_the_field(document: Path) -> None:
    for line in prose(document.read_text()).split("\n"):
        assert not FOREIGN.search(line), line


BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_docstrings_of_benchmarks_are_short(path: Path) -> None:
    """A first line has at most twelve words, a sentence as many commas as one of a page."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (doc := ast.get_docstring(node)):
            assert len(doc.splitlines()[0].split()) <= 12, doc.splitlines()[0]
            for sentence in sentences(re.split(r"\n(?:Args|Attributes):\n", doc)[0]):
                assert commas(sentence) <= MOST_COMMAS, sentence
            assert not FOREIGN.search(doc), doc


def test_a_long_sentence_on_a_page_is_found() -> None:
    """The control: commas of code, tables and numbers do not count, those of a sentence do."""
    text = (
        "It has a, b, c, d, e and f. It took 1,000 s or [-0.1, +0.2]. Keys are `a, b, c, d, e, f`.\n| a, b, c, d, e |\n"
    )
    assert [commas(sentence) for sentence in sentences(text)] == [4, 0, 0]
    assert max(commas(sentence) for sentence in sentences("One, two, three, four, five, six.\n- Another one.")) == 5
    assert FOREIGN.search("This is no number.")


@pytest.mark.parametrize("family", FAMILY_PACKAGES)
def test_the_page_of_members_names_every_member(family: str) -> None:
    for name in Registry(family, FAMILY_PACKAGES[family]).names():
        assert re.search(rf"\b{name}\b", page("members")), name


def test_the_depthwise_page_shows_what_was_measured() -> None:
    rows = csv.DictReader((ROOT / "docs" / "depthwise_transfer.csv").read_text(encoding="utf-8").splitlines())
    found = 0
    for row in rows:
        value, low, high = (float(row[key]) for key in ("value", "low", "high"))
        assert f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" in page("depthwise_transfer"), row
        assert row["found"] == "True"
        found += 1
    assert found == 20


TABLES = ROOT / "docs" / "analyze-a-table.md"


def without_numbers(text: str) -> str:
    return re.sub(r"[-+]?\d[\d.]*(?:e[-+]\d+)?", "#", text)


def test_the_readme_shows_what_is_printed(tmp_path: Path) -> None:
    """Its output has today's words: those of a run without training, where numbers and verdicts are others."""
    folder = finished_run([f"runs={tmp_path}"])
    printed = [line for line in analyze_run(folder).summary().splitlines() if not line.startswith("warning: ")]
    verified = Verification(
        scale={"width": 256, "depth": 4, "tokens": 131072},
        predicted={"lr": 0.006},
        best={"lr": 0.006, "loss": 2.1},
        regret_nats=0.001,
        regret_percent=0.05,
        error_octaves={"lr": 0.1},
        untransferred={"lr": 0.017, "regret_nats": 0.1, "regret_percent": 4.0},
        points=[{}] * 5,
        unit="nats",
    )
    shown = FENCED.findall(README.partition("## What comes out")[2])[0][1]
    words = [" ".join(line.split()) for line in (*printed, verified.summary())]

    def plain(text: str) -> str:
        words = without_numbers(" ".join(text.split())).replace("less than #%", "#%")
        words = re.sub(r"cost (the target )?# \(# to #\) nats, #%", r"cost \1#%", words)  # or "less than #%"
        return re.sub(r"(?:moves, )?(?:does not transfer|transfers)|may move|moves", "VERDICT", words)

    assert plain(shown) == plain(" ".join(words))


@pytest.mark.slow
def test_the_page_about_tables_runs_from_start_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Block by block in one folder: commands print what the page shows, Python goes on where it stopped."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    names: dict[str, object] = {}
    shown = ""
    blocks = re.findall(r"```(bash|text|python)\n(.*?)```", TABLES.read_text(encoding="utf-8"), flags=re.DOTALL)
    for language, block in blocks:
        if language == "python":
            exec(block, names)
        elif language == "text":
            assert without_numbers(shown) == without_numbers(block)
            numbers = [float(number) for text in (shown, block) for number in re.findall(r": (0\.00\d+) \(", text)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.02)
        elif block.startswith("hptransfer "):
            done = command(*shlex.split(block)[1:], cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            shown = done.stdout
        else:
            subprocess.run(block, shell=True, check=True, cwd=tmp_path)
    assert [language for language, _ in blocks].count("python") == 4
    assert capsys.readouterr().out.count("\n") == 1  # the error that the page catches
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert (tmp_path / "bare" / "predictions.csv").exists()
    answer = csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines())
    found: Any = names["found"]
    assert float(next(answer)["learning_rate"]) == pytest.approx(found.predictions["learning_rate"][0], rel=1e-9)
