"""Hooks are notified of the end of a sweep and of blocks; their failure is a warning."""

import http.server
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.core.errors import ConfigError
from hptransfer.core.io import write_json
from hptransfer.core.records import CODE_ERROR, FAILED, Job, Outcome
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers import JobEnd
from tests.support.helpers import INLINE, sweep_arguments, tiny
from tests.support.scripted import Scripted, playing, train

VALUES = ("space.lr.low=0.001953125", "space.lr.high=0.125", "space.lr.count=7", "space.lr.extend=3")


def parabola(folder: RunFolder, job: Job) -> JobEnd:
    """Finish trials with losses on a parabola, whose optimum lies inside the grid."""
    for trial_id in job.trials:
        loss = 3 + (math.log2(folder.read_trial(trial_id).tuned["lr"]) + 6) ** 2 / 20
        write_json(folder.outcome_path(trial_id), Outcome(state="done", loss=loss, loss_se=0.1, steps=64).to_json())
    return JobEnd(job.id)


def fails(folder: RunFolder, job: Job) -> JobEnd:
    """Like `parabola`, but trials with the lowest rates fail."""
    parabola(folder, job)
    for trial_id in job.trials:
        if folder.read_trial(trial_id).tuned["lr"] < 0.003:
            failed = Outcome(state=FAILED, error="boom", cause=CODE_ERROR)
            write_json(folder.outcome_path(trial_id), failed.to_json())
    return JobEnd(job.id)


def sweep(runs: Path, fate: Any, *overrides: str) -> int:
    with playing(Scripted(fate)), pytest.raises(SystemExit) as end:
        main([*sweep_arguments(runs, *INLINE, *VALUES, *overrides)])
    assert isinstance(end.value.code, int)
    return end.value.code


def command(out: Path) -> str:
    """A hook that appends the facts that it receives to a file."""
    script = out / "hook.py"
    script.write_text(
        "import json, os, sys\n"
        "facts = json.load(sys.stdin)\n"
        "facts['environment'] = {k: v for k, v in os.environ.items() if k.startswith('HPTRANSFER_')}\n"
        "open(sys.argv[1], 'a').write(json.dumps(facts) + '\\n')\n"
    )
    return f"[python3,{script},{out / 'told'}]"


def told(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "told").read_text().splitlines()]


def hooks(out: Path) -> list[str]:
    return [f"hooks.{event}={command(out)}" for event in ("done", "failed", "blocked")]


@pytest.mark.parametrize(
    ("fate", "more", "code", "event"),
    [
        (parabola, (), 0, "done"),
        (fails, (), 3, "failed"),
        (train, (), 6, "failed"),
        (parabola, ("budget.trials=10",), 4, "blocked"),
    ],
)
def test_one_hook_is_told_how_the_sweep_ended(
    tmp_path: Path, fate: Any, more: tuple[str, ...], code: int, event: str
) -> None:
    if fate is train:
        more = ("space.lr.extend=0",)
    assert sweep(tmp_path / "runs", fate, *hooks(tmp_path), *more) == code
    (facts,) = told(tmp_path)
    assert (facts["event"], facts["exit_code"], facts["run"]) == (event, code, "quickstart")
    assert facts["environment"]["HPTRANSFER_EVENT"] == event
    assert facts["environment"]["HPTRANSFER_TRIALS_DONE"] == str(facts["trials"]["done"])


@pytest.mark.slow
def test_jobs_that_cannot_run_are_reported_once(tmp_path: Path) -> None:
    ticks: list[Job] = []

    def fate(folder: RunFolder, job: Job) -> JobEnd | None:
        ticks.append(job)
        reason = "QOSMaxGRESPerUser" if len(ticks) < 12 else "Priority"
        states = {j: {"state": "PENDING", "reason": reason, "node": "", "scheduler": "1"} for j in [job.id]}
        write_json(folder.jobs / "states.json", {"jobs": states, "checked": 0})
        time.sleep(0.03)
        return None if len(ticks) < 20 else parabola(folder, job)

    launcher_slots = ("hooks.blocked_after_s=0.1",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hptransfer.driver.driver.REPORT_S", 0.01)
        patch.setattr("hptransfer.driver.driver.REPORT_SHARE", 0)  # ticks are slow on a busy machine
        with playing(Scripted(fate, slots=1)), pytest.raises(SystemExit) as end:
            main([*sweep_arguments(tmp_path / "runs", *INLINE, *VALUES, *hooks(tmp_path), *launcher_slots)])
    assert end.value.code == 0
    assert [(facts["event"], facts["reason"]) for facts in told(tmp_path)] == [
        ("blocked", "all jobs wait: QOSMaxGRESPerUser"),
        ("done", ""),
    ]


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    """A web address of this machine, and the bodies posted to it."""
    posted: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}", posted
        finally:
            web.shutdown()
            thread.join()


def test_an_address_is_posted_to_and_its_failure_is_a_warning_without_it(
    tmp_path: Path, server: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address, posted = server
    monkeypatch.setenv("SWEEP_HOOK", f"{address}/broken")
    assert sweep(tmp_path, parabola, "hooks.done='${oc.env:SWEEP_HOOK}'") == 0
    assert [facts["event"] for facts in posted] == ["done"]
    out = " ".join(capsys.readouterr().out.split())
    assert "note: hooks.done failed (its server answered 500); the sweep itself is not affected" in out
    assert "/broken" not in out


@pytest.mark.parametrize(
    ("command", "timeout_s", "message"),
    [
        ("[/no/such/program]", 30, "No such file"),
        ("[sleep,60]", 0.2, "longer than 0.2 s"),
        ("[sh,-c,exit 1]", 30, "exit code 1"),
    ],
)
def test_a_command_that_fails_is_a_warning(
    tmp_path: Path, command: str, timeout_s: float, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path, parabola, f"hooks.done={command}", f"hooks.timeout_s={timeout_s}") == 0
    assert message in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("hook", ["ftp://x", "[]", "[true]", "notify-send", "3"])
def test_what_is_neither_a_command_nor_an_address_is_refused(tmp_path: Path, hook: str) -> None:
    with pytest.raises(ConfigError, match=r"hooks.done must be a command as a list"):
        tiny(tmp_path, f"hooks.done={hook}")
