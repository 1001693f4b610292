"""Bad input costs little more than a small good one, measured in processes whose memory is capped."""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.helpers import environment

MOST_CPU_S = 1.0
MOST_MEMORY_MB = 500
CAP_BYTES = 8 * 2**30
HEAD = "defaults: [sweep, run: script, sampler: grid, launcher: local, tracker: none, _self_]\nname: s\n"
RUN = 'run: {command: [python, "{width}", "{lr}"], params: width, tokens: 1000}\n'
GRID = "grid: {width: {values: [32, 64]}}\n"
SPACE = "space: {lr: {low: 0.001, high: 0.1, count: 5}}\n"
ALIASES = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}], " for k in range(1, 7))
DOUBLED = "".join(f'z{k}: "{f"${{run.names.z{k - 1}}}" * 2}", ' for k in range(1, 40))
WIDE = "".join(f"h{k}: {{low: 0.001, high: 0.1, count: 20}}, " for k in range(8))
ROWS = "".join(
    f"{width},{2.0**-k},{3 + (k - 6) ** 2 / 20 + 10 / width}\n" for width in (32, 64, 128) for k in range(3, 10)
)
TABLE = ["analyze", "--table", "bad", "--scale", "width", "--tune", "lr", "--targets", "targets.csv", "--out", "out"]
# Runs the command line and writes what it took.
MEASURED = """
import json, resource, sys
from hptransfer.cli.main import main
try:
    main(sys.argv[1:])
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1000]), file=sys.stderr)
"""
SWEEPS = {
    "a million aliased nodes": f"{HEAD}x: {{a0: &a0 [1, 1, 1], {ALIASES}}}\n",
    "3,000 nested lists": f"{HEAD}x: {'[' * 3000}{']' * 3000}\n",
    "a value inside itself": f"{HEAD}x: &a [*a]\n",
    "a file of 50 MB": f"{HEAD}x: {'a' * 50_000_000}\n",
    "a list of 200,000": f"{HEAD}x: [{'1,' * 200_000}]\n",
    "doubled references": f"{HEAD}run: {{command: [a], names: {{z0: xxxxxxxxxx, {DOUBLED}}}}}\n",
    "a list for grid": f"{HEAD}{RUN}{SPACE}grid: [1, 2]\n",
    "1e8 values": f"{HEAD}{RUN}{GRID}space: {{lr: {{low: 0.001, high: 0.1, count: 100_000_000}}}}\n",
    "a product of 20**8": f"{HEAD}{RUN}{GRID}space: {{{WIDE}}}\n",
    "a billion seeds": f"{HEAD}{RUN}{GRID}{SPACE}seeds: 1_000_000_000\n",
    "a scale of 1e300": f"{HEAD}{RUN}{SPACE}grid: {{width: {{values: [32, 1e300]}}}}\n",
    "a target of 1e300": f"{HEAD}{RUN}{GRID}{SPACE}target: {{width: 1e300}}\n",
}
TABLES = {
    "CR line ends": f"width,lr,loss\n{ROWS}".replace("\n", "\r"),
    "a row of 1e300": f"width,lr,loss\n{ROWS}1e300,0.1,3\n",
    "20,000 scales": "width,lr,loss\n" + "".join(f"{k},0.1,3\n" for k in range(1, 20_001)),
    "a line of 30 MB": f"width,lr,loss\n{'1' * 30_000_000}\n",
    "an open quote": f'width,lr,loss\n32,"0.1,3\n{ROWS * 2000}',
}


def measure(folder: Path, words: Sequence[str]) -> tuple[int, str, float, float]:
    """Return exit code, error, seconds of CPU and peak of memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (CAP_BYTES, CAP_BYTES)),
    )
    *error, used = done.stderr.splitlines()
    return (done.returncode, "\n".join(error), *json.loads(used))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "good", "bad"),
    [
        (["plan", "bad"], HEAD + RUN + GRID + SPACE, SWEEPS),
        (["sweep", "bad"], None, SWEEPS),
        (["import", "bad", "rows.csv"], None, SWEEPS),
        (TABLE, f"width,lr,loss\n{ROWS}", TABLES),
        (["import", "good.yaml", "bad"], None, TABLES),
    ],
    ids=["plan", "sweep", "import of a sweep", "analyze", "import of a table"],
)
def test_bad_input_is_one_line_at_little_cost(
    tmp_path: Path, words: list[str], good: str | None, bad: dict[str, str]
) -> None:
    ending = ".csv" if bad is TABLES else ".yaml"
    (tmp_path / "targets.csv").write_text("width\n512\n")
    (tmp_path / "rows.csv").write_text("width,lr,loss\n32,0.1,3\n")
    (tmp_path / "good.yaml").write_text(HEAD + RUN + GRID + SPACE)
    words = [word.replace("bad", f"bad{ending}") for word in words]
    # A verb that would train starts from the cost of a plan of a good sweep.
    reference = {"sweep": ["plan", "bad.yaml"], "import": ["plan", "good.yaml"]}.get(words[0], words)
    (tmp_path / f"bad{ending}").write_text(good or HEAD + RUN + GRID + SPACE)
    code, _, good_s, good_mb = measure(tmp_path, reference)
    assert code == 0
    before = {path.name for path in tmp_path.iterdir()}
    for name, text in bad.items():
        (tmp_path / f"bad{ending}").write_text(text)
        code, error, seconds, megabytes = measure(tmp_path, words)
        assert (code, error.count("\n")) == (2, 0), (name, error[-500:])
        assert error.startswith("hptransfer: "), (name, error[-500:])
        assert seconds <= good_s + MOST_CPU_S, name
        assert megabytes <= good_mb + MOST_MEMORY_MB, name
        assert {path.name for path in tmp_path.iterdir()} == before, name
