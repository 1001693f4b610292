"""The documents say what is so: commands run, links lead somewhere, help is what is printed."""

import csv
import math
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generators.measured_checks import measured_markdown, read_measured
from docs.generators.parameterization_tables import markdown
from hptransfer.cli.main import VERBS
from hptransfer.cli.start import FAMILIES
from hptransfer.config.compose import compose
from hptransfer.coordcheck.compose import compose_check
from hptransfer.core import errors
from hptransfer.core.registry import Registry
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.preview import preview
from hptransfer.parameterizations import PARAMETERIZATIONS
from hptransfer.planning.plan import jobs_of, make_plan
from hptransfer.worker.runners.builtin import CPU_JOBS
from tests.support.helpers import ROOT, command

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
README = (ROOT / "README.md").read_text()


CLUSTERS = (ROOT / "docs" / "clusters.md").read_text()


def commands(page: str = README) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("hptransfer ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def yaml_blocks() -> list[tuple[str, str]]:
    """Every YAML block of every page, with a name for it."""
    blocks = []
    for page in [*DOCUMENTS, ROOT / "examples" / "README.md"]:
        texts = re.findall(r"```ya?ml\n(.*?)```", page.read_text(), flags=re.DOTALL)
        blocks += [(f"{page.stem}-{number}", text) for number, text in enumerate(texts)]
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


def test_the_pages_have_sweep_files() -> None:
    assert len(SWEEP_FILES) >= 4


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_is_one(line: str) -> None:
    """Verbs exist, sweeps compose with the overrides given, options are known."""
    _, verb, *rest = shlex.split(line)
    assert verb in VERBS
    if verb in ("plan", "sweep"):
        compose(rest[0], [word for word in rest[1:] if not word.startswith("--")])
    if verb == "coord-check":
        compose_check([word for word in rest if "=" in word])
    assert_options_exist(verb, rest)


@pytest.mark.parametrize("line", commands(CLUSTERS))
def test_every_command_of_the_cluster_page_is_one(line: str) -> None:
    _, verb, *rest = shlex.split(line, comments=True)
    assert verb in VERBS
    assert_options_exist(verb, rest)


def assert_options_exist(verb: str, words: list[str]) -> None:
    known = command(verb, "--help").stdout
    for word in words:
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


def test_the_tables_of_parameterizations_are_the_codes() -> None:
    page = (ROOT / "docs" / "parameterizations.md").read_text()
    made = markdown()
    measured = measured_markdown(read_measured(ROOT / "docs" / "coordinate_checks.csv"))
    command = "python -m docs.generators.parameterization_tables docs/coordinate_checks.csv"
    assert page[page.index("## ") :] == made + measured, f"run: {command}"
    assert made.count("\n## ") + 1 == len(PARAMETERIZATIONS.names())


def test_the_jobs_on_the_page_are_those_that_sweeps_make() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    rows = re.findall(r"^\| (below [0-9.e+]+|more) \| (\d+) \|", page, flags=re.MULTILINE)
    limits = {math.inf if limit == "more" else float(limit.removeprefix("below ")): int(size) for limit, size in rows}
    assert limits == CPU_JOBS
    plan = make_plan(compose("quickstart", ["grid.width.values=[32,64,128,256]", "grid.depth.values=[4]"]))
    found = {scale.axes["width"]: plan.runner.job_size(plan.run(scale), gpu=False) for scale in plan.scales}
    assert "the quickstart at widths 32, 64 and 128" in page
    assert found == {32: 4, 64: 4, 128: 4, 256: 1}


PACKAGE = ROOT / "hptransfer"


def test_the_architecture_names_what_there_is() -> None:
    """Every package and every module of the trainer is named; every path that is named exists."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    packages = [path.parent.relative_to(PACKAGE) for path in PACKAGE.glob("**/__init__.py") if path.parent != PACKAGE]
    assert len(packages) > 20
    for package in packages:
        assert f"`{package}/`" in page, package
    for path in [*PACKAGE.glob("training/*.py"), *PACKAGE.glob("parameterizations/_*.py")]:
        if path.name != "__init__.py":
            assert f"`{path.relative_to(PACKAGE)}`" in page, path
    for name in re.findall(rf"`((?:{'|'.join({package.parts[0] for package in packages})})/[\w./]+)`", page):
        assert (PACKAGE / name).exists(), name


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
CARRIERS = re.findall(r"`(\w+)` in `([\w/]+\.py)`", GLOSSARY)


@pytest.mark.parametrize(("name", "file"), CARRIERS)
def test_the_glossary_names_classes_where_they_are(name: str, file: str) -> None:
    source = (PACKAGE / file).read_text()
    assert re.search(rf"^(?:class|def) {name}\b|^{name} = ", source, flags=re.MULTILINE), f"{file} has no {name}"


def test_every_term_of_the_glossary_names_its_carrier() -> None:
    rows = re.findall(r"^\| \*\*.*$", GLOSSARY, flags=re.MULTILINE)
    assert len(rows) == len(CARRIERS) > 25


@pytest.mark.parametrize("family", ["parameterization", "model", "optimizer", "dataset"])
def test_the_readme_names_every_member(family: str) -> None:
    for name in Registry(family, FAMILIES[family]).names():
        assert re.search(rf"\b{name}\b", README), name


def test_the_depthwise_page_shows_what_was_measured() -> None:
    rows = csv.DictReader((ROOT / "docs" / "depthwise_transfer.csv").read_text(encoding="utf-8").splitlines())
    page = (ROOT / "docs" / "depthwise_transfer.md").read_text(encoding="utf-8")
    found = 0
    for row in rows:
        value, low, high = (float(row[key]) for key in ("value", "low", "high"))
        assert f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" in page, row
        assert row["found"] == "True"
        found += 1
    assert found == 20


TABLES = ROOT / "docs" / "analyze-a-table.md"


def without_numbers(text: str) -> str:
    return re.sub(r"[-+]?\d[\d.]*(?:e[-+]\d+)?", "#", text)


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
