"""The pages agree with the code: commands and sweep files work, links lead somewhere, tables are complete."""

import csv
import math
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generators.measured_checks import measured_markdown, read_measured
from docs.generators.parameterization_tables import markdown
from hptransfer.cli.main import VERBS
from hptransfer.cli.start import FAMILY_PACKAGES
from hptransfer.config.compose import compose
from hptransfer.coordcheck.check_config import compose_check
from hptransfer.core import errors
from hptransfer.core.registry import Registry
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.preview import preview
from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.planning.plan import jobs_of, make_plan
from hptransfer.worker.runners.builtin import CPU_JOBS
from tests.support.helpers import ROOT, command

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "CHANGELOG.md",
]
README = (ROOT / "README.md").read_text()


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def commands() -> list[tuple[str, str]]:
    """Every hptransfer command in a block of shell of any page, with the page's name."""
    found = []
    for document in DOCUMENTS:
        blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", document.read_text(), flags=re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        found += [(document.stem, line) for line in lines if line.startswith("hptransfer ")]
    return found


@cache
def options(verb: str) -> str:
    return command(verb, "--help").stdout


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


def yaml_blocks() -> list[tuple[str, str]]:
    """Every YAML block of every page, with a name for it."""
    blocks = []
    for document in DOCUMENTS:
        texts = re.findall(r"```ya?ml\n(.*?)```", document.read_text(), flags=re.DOTALL)
        blocks += [(f"{document.stem}-{number}", text) for number, text in enumerate(texts)]
    return blocks


SWEEP_FILES = [(name, text) for name, text in yaml_blocks() if "defaults:" in text]


@pytest.mark.parametrize(("name", "text"), yaml_blocks(), ids=[name for name, _ in yaml_blocks()])
def test_every_yaml_block_is_yaml(name: str, text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize(("name", "text"), SWEEP_FILES, ids=[name for name, _ in SWEEP_FILES])
def test_every_sweep_file_of_the_pages_can_be_planned(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It composes and plans beside the files that it names, and its launcher takes what it is told."""
    monkeypatch.chdir(tmp_path)
    for script in re.findall(r"[\w./]+\.py\b", text):
        (tmp_path / script).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / script).touch()
    (tmp_path / "page.yaml").write_text(text)
    plan = make_plan(compose("page.yaml"))
    assert plan.flops() > 0
    if isinstance(launcher := plan.config.launcher, SlurmConfig):
        jobs = [job for scale in plan.scales for job in jobs_of(plan, scale)]
        assert "#SBATCH" in "".join(preview(launcher, plan.config.folder, jobs))


OLD_WORDS = re.compile(r"\bunmoved\b|\bbowls?\b|\b(taken|held) back\b|: plus\b|\bhptransfer[./]sweep\b", re.IGNORECASE)


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.stem != "CHANGELOG"], ids=lambda path: path.stem
)
def test_the_pages_use_the_words_of_the_glossary(document: Path) -> None:
    assert not OLD_WORDS.findall(document.read_text())


def test_the_pages_have_sweep_files() -> None:
    assert len(SWEEP_FILES) >= 4


@pytest.mark.parametrize(("where", "line"), commands(), ids=[f"{where}: {line}" for where, line in commands()])
def test_every_command_of_the_pages_is_one(where: str, line: str) -> None:
    """Verbs exist, sweeps of this checkout compose with the overrides given, options are known."""
    _, verb, *rest = shlex.split(line, comments=True)
    assert verb in VERBS
    known = [*(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))]
    if verb in ("plan", "sweep") and rest[0] in known:
        compose(rest[0], [word for word in rest[1:] if "=" in word and not word.startswith("--")])
    if verb == "coord-check" and where != "extending":  # whose members are those of an example package
        compose_check([word for word in rest if "=" in word])
    for word in rest:
        if word.startswith("--"):
            assert word in options(verb), where


def test_the_pages_have_commands() -> None:
    assert len([line for where, line in commands() if where == "README"]) >= 8
    assert len(commands()) >= 50


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
    for path in [*PACKAGE.glob("training/*.py"), *PACKAGE.glob("parameterizations/_*.py")]:
        if path.name != "__init__.py":
            assert f"`{path.relative_to(PACKAGE)}`" in text, path
    for name in re.findall(rf"`((?:{'|'.join({package.parts[0] for package in packages})})/[\w./]+)`", text):
        assert (PACKAGE / name).exists(), name


GLOSSARY = page("glossary")
CARRIERS = re.findall(r"`(\w+)` in `([\w/]+\.py)`", GLOSSARY)


@pytest.mark.parametrize(("name", "file"), CARRIERS)
def test_the_glossary_names_classes_where_they_are(name: str, file: str) -> None:
    source = (PACKAGE / file).read_text()
    assert re.search(rf"^(?:class|def) {name}\b|^{name} = ", source, flags=re.MULTILINE), f"{file} has no {name}"


def test_every_term_of_the_glossary_names_its_carrier() -> None:
    rows = re.findall(r"^\| \*\*.*$", GLOSSARY, flags=re.MULTILINE)
    assert len(rows) == len(CARRIERS) > 25


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
