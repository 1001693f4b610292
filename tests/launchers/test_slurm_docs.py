"""The table of settings in docs/clusters.md is that of the code."""

import ast
import inspect
import re
from dataclasses import MISSING, fields

from hptransfer.launchers import LauncherConfig
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.settings import SlurmSettings
from tests.support.helpers import ROOT


def table() -> str:
    """One row a setting: name, default, and the line below it in the code."""
    docs: dict[str, str] = {}
    for owner in (LauncherConfig, SlurmSettings):
        body = ast.parse(inspect.getsource(owner)).body[0].body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                docs[node.target.id] = " ".join(after.value.value.split()) if documented else ""
    rows = []
    for item in fields(SlurmConfig):
        if item.name != "name":
            default = item.default_factory() if item.default is MISSING else item.default
            shown = "null" if default is None else str(default) or '""'
            rows.append(f"| `{item.name}` | {shown} | {docs[item.name]} |")
    return "\n".join(rows)


def test_the_settings_on_the_page_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text()
    made = table()
    assert made in page, f"the table of settings must be\n{made}"
    assert len(re.findall(r"^\| `", made, flags=re.MULTILINE)) == len(fields(SlurmConfig)) - 1
