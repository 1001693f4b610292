"""A run can be anybody's script: what it is given, what is taken of it, and each way in which it can end."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.cli import main
from hptransfer.config import compose
from hptransfer.core.errors import ConfigError, Interrupted, Superseded
from hptransfer.core.files import RunFolder, read_json, read_jsonl
from hptransfer.core.records import (
    CODE_ERROR,
    DIVERGED,
    DONE,
    FAILED,
    KILLED,
    OUT_OF_MEMORY,
    PREEMPTED,
    TIME_LIMIT,
    Outcome,
    Trial,
)
from hptransfer.sweep.plan import Plan, differences, identity, make_plan, seconds_by_scale
from hptransfer.sweep.runners._base import Context
from hptransfer.sweep.runners._launch import arguments
from hptransfer.sweep.runners._script_config import from_json
from hptransfer.sweep.runners.script import Script
from tests.helpers import ROOT, command, environment, outcomes

# Its optimum falls with the square root of the width: 2^-6 at width 32.
BOWL = """
import math, sys
import hptransfer
width, lr = int(sys.argv[1]), float(sys.argv[2])
best = -6 - 0.5 * math.log2(width / 32)
for step in range(1, 4):
    hptransfer.report(step=step, loss=2 + 32 / width + 0.1 * (math.log2(lr) - best) ** 2 + 1 / step)
"""
SWEEP: Mapping[str, Any] = {
    "defaults": [
        "sweep",
        {"run": "script"},
        {"sampler": "grid"},
        {"launcher": "inline"},
        {"tracker": "none"},
        "_self_",
    ],
    "name": "bowl",
    "run": {
        "command": ["{python}", "train.py", "{width}", "{lr}", "{seed}"],
        "params": "12 * width**2",
        "tokens": 1000,
        "metric": {"key": "loss"},
    },
    "grid": {"width": {"values": [32, 64, 128]}},
    "space": {"lr": {"low": 2**-9, "high": 2**-3, "count": 7}},
    "target": {"width": 256},
}


def write_sweep(folder: Path, script: str = BOWL, **run: Any) -> Path:
    """A sweep file and its script; `run` replaces parts of its run."""
    (folder / "train.py").write_text(script)
    path = folder / "bowl.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "run": {**SWEEP["run"], **run}}))
    return path


def plan_of(folder: Path, script: str = BOWL, *overrides: str, **run: Any) -> Plan:
    path = write_sweep(folder, script, **{"cwd": str(folder), **run})
    return make_plan(compose(str(path), [f"runs={folder / 'runs'}", *overrides]))


def execute(
    plan: Plan, *, attempt: int = 1, stop: Callable[[], str | None] = lambda: None, lr: float = 2**-6
) -> tuple[Trial, Outcome, RunFolder]:
    """Runs one trial of the smallest scale."""
    folder = plan.config.folder
    folder.create()
    trial = plan.trial(plan.scales[0], {"lr": lr}, 0)
    folder.write_trial(trial)
    found: list[Outcome] = []
    context = Context("job", attempt, 0, folder.jobs / "job.checkpoint", 300, stop)
    Script().execute([trial], folder, lambda trial, outcome: found.append(outcome), context)
    (outcome,) = found
    return trial, outcome, folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


# --- a whole sweep ---------------------------------------------------------------------------------


def test_a_sweep_of_a_script_finds_the_known_optimum_and_verifies_it(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    swept = command("sweep", "bowl.yaml", "launcher=local", "tracker=mlflow", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    folder = RunFolder(tmp_path / "runs" / "bowl")
    assert list(outcomes(folder).values()) == [DONE] * 21
    prediction = read_json(folder.prediction)["hyperparameters"]["lr"]
    assert abs(math.log2(prediction["value"]) + 7.5) < 0.1  # laws that level off have a say with three scales
    assert prediction["low"] < 2**-7.5 < prediction["high"]
    (exponent,) = read_json(folder.path / "fit.json")["hyperparameters"]["lr"]["exponents"].values()
    assert exponent["value"] == pytest.approx(-0.5, abs=0.01)
    verified = command("verify", "bowl", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    verification = read_json(folder.verification)
    assert verification["regret_nats"] == pytest.approx(0, abs=1e-3)
    assert verification["best"]["loss"] == pytest.approx(2 + 32 / 256 + 1 / 3, abs=1e-3)
    exported = json.loads(command("export", "bowl", cwd=tmp_path).stdout)
    assert exported["values"] == {"lr": prediction["value"], "width": 256}
    assert exported["command"] == ["{python}", "train.py", "256", repr(prediction["value"]), "{seed}"]
    again = command("sweep", "bowl.yaml", "tracker=none", cwd=tmp_path)
    assert "21/21 trials" in again.stdout
    assert len(list(folder.jobs.glob("*.log"))) == 26  # none was trained again


@pytest.mark.filterwarnings("ignore")  # MLflow's own libraries warn about each other
def test_the_dashboard_has_the_curve_and_the_loss(here: Path) -> None:
    from hptransfer.sweep.trackers.mlflow import client

    write_sweep(here)
    overrides = ("grid.width.values=[32]", "target.width=32", "space.lr.extend=0", "tracker=mlflow")
    command("sweep", "bowl.yaml", *overrides, cwd=here)
    store = client(f"sqlite:///{here / 'runs' / 'bowl' / 'mlflow.db'}")
    (experiment,) = [one for one in store.search_experiments() if one.name == "bowl"]
    runs = [run for run in store.search_runs([experiment.experiment_id]) if run.data.tags["trial"] != "sweep"]
    assert len(runs) == 7
    best = min(runs, key=lambda run: float(run.data.metrics["loss"]))
    assert best.data.params["lr"] == repr(2**-6)
    assert len(store.get_metric_history(best.info.run_id, "train_loss")) == 3


# --- what a script is given ------------------------------------------------------------------------

TELL = """
import json, os, sys
seen = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
seen["settings"] = json.load(open(os.environ["HPTRANSFER_SETTINGS"]))
seen["cwd"] = os.getcwd()
json.dump(seen, open(os.path.join(os.environ["HPTRANSFER_TRIAL_DIR"], "seen.json"), "w"))
open(os.environ["HPTRANSFER_METRICS"], "a").write('{"step": 1, "loss": 2}')  # without the line's end, as echo -n does
"""


def test_a_value_comes_to_the_script_as_it_is(here: Path) -> None:
    """Exactly, by every way, and whatever a shell would make of it."""
    values = {"names": {"note": "$(touch x); a 'b' \"c\" *"}, "environment": {"LR_COPY": "{lr}"}}
    argv = ["{python}", "train.py", "--lr={lr}", "{width}", "{note}", '{{"a": {seed}}}', "{params} {tokens} {flops}"]
    trial, outcome, folder = execute(plan_of(here, TELL, command=argv, **values), lr=0.1 + 0.2)
    assert outcome.state == DONE, outcome.error
    seen = json.loads((folder.trial(trial.id) / "seen.json").read_text())
    assert seen["arguments"] == [
        "--lr=0.30000000000000004",
        "32",
        "$(touch x); a 'b' \"c\" *",
        '{"a": 0}',
        f"12288 1000 {6 * 12288 * 1000.0!r}",
    ]
    assert seen["settings"]["lr"] == 0.1 + 0.2
    assert seen["settings"]["width"] == 32
    assert seen["environment"]["HPTRANSFER_LR"] == seen["environment"]["LR_COPY"] == repr(0.1 + 0.2)
    assert seen["environment"]["HPTRANSFER_SEED"] == "0"
    assert seen["environment"]["HPTRANSFER_ATTEMPT"] == "1"
    assert seen["environment"]["HPTRANSFER_NOTE"] == values["names"]["note"]
    assert Path(seen["cwd"]) == here
    assert not (here / "x").exists()


def test_few_files_are_left_of_a_trial(here: Path) -> None:
    trial, _, folder = execute(plan_of(here))
    left = {path.name for path in folder.trial(trial.id).iterdir()}
    assert left == {"trial.json", "settings.json", "metrics.jsonl"}  # and from the worker its lease and outcome


def test_report_does_nothing_outside_of_a_trial_and_imports_nothing(tmp_path: Path) -> None:
    code = "import hptransfer, sys; hptransfer.report(step=1, loss=2.0); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert list(tmp_path.iterdir()) == []


# --- what is taken of it ---------------------------------------------------------------------------


def reports(*lines: str, then: str = "") -> str:
    """A script that writes these lines to its metrics file."""
    written = "".join(f"{line}\n" for line in lines)
    return f"import os, sys\nopen(os.environ['HPTRANSFER_METRICS'], 'a').write({written!r})\n{then}"


def points(*losses: float) -> list[str]:
    return [json.dumps({"step": 10 * (k + 1), "loss": loss}) for k, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("metric", "loss"),
    [({}, 3.0), ({"reduce": "minimum"}, 1.0), ({"reduce": "mean", "points": 2}, 2.5)],
)
def test_the_metric_is_reduced(here: Path, metric: dict[str, Any], loss: float) -> None:
    _, outcome, _ = execute(plan_of(here, reports(*points(5, 1, 2, 3)), metric=metric))
    assert (outcome.loss, outcome.initial_loss, outcome.steps) == (loss, 5.0, 40)


def test_another_key_and_what_else_is_reported(here: Path) -> None:
    script = reports(
        '{"step": 1, "train": 4}', '{"step": 1, "val": 3, "phase": "x"}', '{"step": 2, "train": 2, "tokens": 64}'
    )
    trial, outcome, folder = execute(plan_of(here, script, metric={"key": "val"}))
    assert outcome.loss == 3.0
    curve = read_jsonl(folder.curve_path(trial.id))
    shown = [{key: value for key, value in point.items() if key != "time"} for point in curve]
    assert shown == [
        {"step": 1, "tokens": None, "loss": 3.0, "train": 4, "val": 3},
        {"step": 2, "tokens": 64, "loss": None, "train": 2},
    ]


def test_a_pattern_reads_what_a_script_prints(here: Path) -> None:
    """Also what a progress bar writes over, and on standard error."""
    script = """
import sys
print("epoch 1 | loss: 3.5e0 |")
sys.stderr.write("epoch 2 | loss: 2.5 |\\repoch 3 | loss: 1.5 |")
"""
    pattern = r"epoch (?P<step>\d+) \| loss: (?P<loss>\S+) \|"
    trial, outcome, folder = execute(plan_of(here, script, metric={"pattern": pattern}))
    assert outcome.loss == 1.5
    assert [(point["step"], point["loss"]) for point in read_jsonl(folder.curve_path(trial.id))] == [
        (1, 3.5),
        (2, 2.5),
        (3, 1.5),
    ]


def test_a_long_curve_is_judged_whole_and_kept_thin(here: Path) -> None:
    trial, outcome, folder = execute(
        plan_of(here, reports(*points(*range(3000, 0, -1))), metric={"reduce": "mean", "points": 3000})
    )
    assert outcome.loss == 1500.5
    curve = read_jsonl(folder.curve_path(trial.id))
    assert (len(curve), curve[0]["step"], curve[-1]["step"]) == (500, 10, 30000)


# --- how it can end --------------------------------------------------------------------------------

FAILURES = [
    ("import sys; sys.exit(3)", {}, CODE_ERROR, "the script ended with exit code 3"),
    ("raise ValueError('no such width')", {}, CODE_ERROR, "exit code 1: ValueError: no such width"),
    ("import os; os.kill(os.getpid(), 9)", {}, KILLED, "the script killed by signal 9 (SIGKILL)"),
    ("import os; os.kill(os.getpid(), 11)", {}, KILLED, "killed by signal 11 (SIGSEGV)"),
    (
        "print('torch.OutOfMemoryError: CUDA out of memory. Tried'); exit(1)",
        {},
        OUT_OF_MEMORY,
        "exit code 1: torch.OutOfMemoryError: CUDA out of memory",
    ),
    (
        "print('ValueError: no such width'); print('=' * 60); print('srun: error: n1: task 0'); exit(1)",
        {},
        CODE_ERROR,
        "exit code 1: ValueError: no such width",
    ),
    (
        "print('[rank1]: torch.OutOfMemoryError: CUDA out of memory'); print('elastic\\n' * 120); exit(1)",
        {},
        OUT_OF_MEMORY,
        "torch.OutOfMemoryError: CUDA out of memory",
    ),
    (
        "print('[rank1]: KeyError: 3'); print('x.errors.ChildFailedError:'); import os; os.kill(os.getpid(), 15)",
        {},
        CODE_ERROR,
        "killed by signal 15 (SIGTERM): [rank1]: KeyError: 3",
    ),
    ("import os, sys; print('almost'); sys.exit(137)", {}, KILLED, "killed by signal 9 (SIGKILL): almost"),
    ("x = 1", {}, CODE_ERROR, "the metric never came: no 'loss' in the lines"),
    (reports('{"step": 1, "los": 2}'), {}, CODE_ERROR, "the metric never came: no 'loss' in the lines"),
    (reports('{"step": 1, "loss": "low"}'), {}, CODE_ERROR, "'loss' must be a number, got 'low'"),
    (reports('{"step": 1.5, "loss": 2}'), {}, CODE_ERROR, "'step' must be a whole number, got 1.5"),
    (reports("loss 2"), {}, CODE_ERROR, "has a line that is no JSON: 'loss 2'"),
    (reports("[1, 2]"), {}, CODE_ERROR, "must have lines such as"),
    (reports(*points(2))[:-4] + "{'); sys.exit(0)", {}, CODE_ERROR, "a line that was cut off"),
    ("print('step 1')", {"metric": {"pattern": "loss=(?P<loss>.*)"}}, CODE_ERROR, "matched no line that it printed"),
    ("print('loss=low')", {"metric": {"pattern": "loss=(?P<loss>.*)"}}, CODE_ERROR, "finds 'low' in 'loss=low'"),
    (
        reports(*points(3, 2)),
        {"metric": {"reduce": "mean", "points": 3}},
        CODE_ERROR,
        "came 2 times, and run.metric is the mean of the last 3",
    ),
    (
        "import os; os.remove(os.environ['HPTRANSFER_METRICS'])",
        {},
        CODE_ERROR,
        "the file HPTRANSFER_METRICS was removed while the script ran",
    ),
    (
        reports(*points(3, 2), then="import time; time.sleep(0.5); open(os.environ['HPTRANSFER_METRICS'], 'w')"),
        {},
        CODE_ERROR,
        "the file HPTRANSFER_METRICS became shorter; open it to append to it",
    ),
    ("import time; time.sleep(60)", {"timeout_s": 0.3}, TIME_LIMIT, "it ran longer than run.timeout_s (0.3 s)"),
    ("", {"command": ["no-such-program", "{width}{lr}"]}, CODE_ERROR, "exit code 127: cannot start 'no-such-program'"),
]


@pytest.mark.parametrize(("script", "run", "cause", "message"), FAILURES)
def test_each_failure_is_one_clear_line(here: Path, script: str, run: dict[str, Any], cause: str, message: str) -> None:
    started = time.monotonic()
    _, outcome, _ = execute(plan_of(here, script, **run))
    assert (outcome.state, outcome.cause) == (FAILED, cause), outcome
    assert outcome.error is not None
    assert message in outcome.error
    assert "\n" not in outcome.error
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("script", "run"),
    [
        (reports(*points(3), '{"step": 20, "loss": NaN}', then="import time; time.sleep(60)"), {}),
        (reports(*points(3), '{"step": 20, "loss": Infinity}'), {}),
        (reports(*points(3), '{"step": 20, "diverged": true}', then="sys.exit(1)"), {}),
        ("print('3'); print('nan')", {"metric": {"pattern": r"(?P<loss>[\d.]+|nan)"}}),
        ("print('3'); print('loss exploded')", {"metric": {"pattern": r"(?P<loss>[\d.]+)|(?P<diverged>exploded)"}}),
    ],
)
def test_a_loss_that_is_not_finite_is_an_outcome_and_ends_the_script(
    here: Path, script: str, run: dict[str, Any]
) -> None:
    started = time.monotonic()
    _, outcome, _ = execute(plan_of(here, script, **run))
    assert (outcome.state, outcome.loss, outcome.initial_loss) == (DIVERGED, None, 3.0)
    assert time.monotonic() - started < 20


# --- interruptions ---------------------------------------------------------------------------------

RESUMING = """
import os, pathlib, signal, sys, time
import hptransfer
state = pathlib.Path(os.environ["HPTRANSFER_TRIAL_DIR"], "checkpoint.txt")
first = int(state.read_text()) if state.exists() else 0
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
for step in range(first + 1, 11):
    hptransfer.report(step=step, loss=float(100 - step + 1000 * int(os.environ["HPTRANSFER_ATTEMPT"])))
    if step == 4:
        state.write_text("4")
    if os.environ["HPTRANSFER_ATTEMPT"] == "1" and step == 6:
        pathlib.Path("ready").touch()
        time.sleep(60)
    if asked:
        sys.exit(0)  # which is not to be taken for its end
"""


def test_a_script_that_is_stopped_goes_on_where_it_was_and_no_point_is_doubled(here: Path) -> None:
    plan = plan_of(here, RESUMING.replace("time.sleep(60)", "[time.sleep(0.02) for _ in range(3000) if not asked]"))
    with pytest.raises(Interrupted) as caught:
        execute(plan, stop=lambda: PREEMPTED if (here / "ready").exists() else None)
    assert caught.value.cause == PREEMPTED
    trial, outcome, folder = execute(plan)  # in another job, say, whose first attempt this is
    assert outcome.state == DONE
    curve = [(point["step"], point["loss"]) for point in read_jsonl(folder.curve_path(trial.id))]
    assert curve == [(k, 1100.0 - k) for k in range(1, 5)] + [(k, 2100.0 - k) for k in range(5, 11)]


def test_a_script_whose_job_was_given_to_another_ends_at_once_and_nothing_is_written(here: Path) -> None:
    plan = plan_of(here, RESUMING)

    def stop() -> str | None:
        if not (here / "ready").exists():
            return None
        curve.write_text("the other's\n")
        raise Superseded

    curve = plan.config.folder.curve_path(plan.trial(plan.scales[0], {"lr": 2**-6}, 0).id)
    started = time.monotonic()
    with pytest.raises(Superseded):
        execute(plan, stop=stop)
    assert curve.read_text() == "the other's\n"
    assert time.monotonic() - started < 10


def test_a_script_that_does_not_listen_is_ended_after_its_grace(here: Path) -> None:
    script = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("ready").touch()
time.sleep(60)
"""
    plan = plan_of(here, script, grace_s=0.2)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        execute(plan, stop=lambda: PREEMPTED if (here / "ready").exists() else None)
    assert time.monotonic() - started < 10


def test_a_script_and_its_children_end_with_their_worker(here: Path) -> None:
    """Killed without a word, as by an out-of-memory killer: its next attempt must not find it still training."""
    script = SLEEPERS + "time.sleep(60)"
    plan_of(here, script)
    code = "from tests.sweep.test_script import *; execute(plan_of(Path(sys.argv[1]), sys.argv[2]))"
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(here), script],
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (here / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = [int(word) for word in (here / "ready").read_text().split()]
    assert all(alive(pid) for pid in pids)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


# Children as torchrun starts them, in sessions of their own, among them.
SLEEPERS = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
children = [subprocess.Popen(sleep, start_new_session=own) for own in (False, True)]
open("pids", "w").write(" ".join(map(str, [os.getpid(), *(child.pid for child in children)])))
os.rename("pids", "ready")
"""


@pytest.mark.parametrize(
    ("last", "state"),
    [("", DONE), ("sys.exit(3)", FAILED), ("signal.signal(15, signal.SIG_IGN); time.sleep(60)", FAILED)],
)
def test_nothing_that_a_script_started_outlives_it(here: Path, last: str, state: str) -> None:
    script = SLEEPERS + f"import signal, hptransfer; hptransfer.report(step=1, loss=2.0); {last}"
    _, outcome, _ = execute(plan_of(here, script, timeout_s=3, grace_s=0.2))
    assert outcome.state == state
    assert not any(alive(int(pid)) for pid in (here / "ready").read_text().split())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_script_that_is_ended_with_its_worker_is_no_failure_of_its_own(here: Path) -> None:
    """Who ends a job signals both at once; the script may be the faster."""
    asked = iter([None, None, PREEMPTED])
    with pytest.raises(Interrupted) as caught:
        execute(plan_of(here, "import os; os.kill(os.getpid(), 15)"), stop=lambda: next(asked, PREEMPTED))
    assert str(caught.value) == PREEMPTED


def test_a_loss_too_long_for_a_number_is_unusable(here: Path) -> None:
    huge = (
        "import os; open(os.environ['HPTRANSFER_METRICS'], 'w').write('{\"step\": 1, \"loss\": 1' + '0' * 400 + '}\\n')"
    )
    _, outcome, _ = execute(plan_of(here, huge))
    assert (outcome.state, outcome.cause) == (FAILED, CODE_ERROR)
    assert "'loss' must be a number" in str(outcome.error)


# --- what a sweep file can say ---------------------------------------------------------------------

BAD = [
    ({"command": ["python", "{widht}", "{lr}"]}, "run.command[1]: unknown name 'widht'. Did you mean 'width'?"),
    ({"command": ["python", "{width:03d}", "{lr}"]}, "has braces around what is no name; write {{ and }} for braces"),
    ({"command": ["python", '{"a": 1}', "{lr}"]}, "has braces around what is no name"),
    ({"command": ["python", "}", "{lr}"]}, "has braces around what is no name"),
    ({"command": ["python", "train.py", "{lr}"]}, "'width' is swept, but neither run.command nor run.environment"),
    ({"command": []}, "run.command must be a list of arguments, such as [python, train.py], got none"),
    ({"environment": {"LR": "{rate}"}}, "run.environment.LR: unknown name 'rate'"),
    ({"params": None}, "run.params must be given: arithmetic over"),
    ({"tokens": None}, "run.flops must be given, or run.tokens"),
    ({"params": "12 * widht"}, "run.params: unknown name 'widht'. Did you mean 'width'?"),
    ({"params": "width - 32"}, "run.params must be a number above 0, got 0"),
    ({"params": "12 * lr"}, "run.params goes by 'lr', which is tuned"),
    ({"params": "nowhere:count"}, "run.params: nowhere:count cannot be imported (ModuleNotFoundError"),
    ({"params": "sizes:gone"}, "run.params: sizes:gone cannot be imported (AttributeError"),
    ({"params": "sizes:needs_depth"}, "sizes:needs_depth takes 'depth'; unknown name 'depth'"),
    ({"params": "sizes:fails"}, "run.params: sizes:fails failed at {'width': 32, 'tokens': 1000} (ValueError: x)"),
    ({"params": "sizes:tuned"}, "run.params goes by 'lr', which is tuned"),
    ({"names": {"seed": 1}}, "run.names.seed: 'seed' is the trial's own seed"),
    ({"names": {"a-b": 1}}, "'a-b' is no name; take letters, digits and _"),
    ({"names": {"Width": 1}}, "both are HPTRANSFER_WIDTH; rename one"),
    ({"names": {"sizes": [1]}}, "run.names.sizes must be a number or text, got [1]"),
    ({"names": {"mode": math.nan}}, "run.names.mode must be finite, got nan; quote it"),
    ({"names": {"tokens": 5}}, "run.tokens is given twice"),
    ({"metric": {"reduce": "men"}}, "run.metric.reduce: unknown reduction 'men'. Did you mean 'mean'?"),
    ({"metric": {"points": 0}}, "run.metric.points must be at least 1, got 0"),
    ({"metric": {"pattern": "("}}, "run.metric.pattern '(' is no regular expression"),
    ({"metric": {"pattern": "loss (.*)"}}, "run.metric.pattern has no group (?P<loss>...)"),
    ({"launch": "torchrn"}, "run.launch: unknown choice 'torchrn'. Did you mean 'torchrun'?"),
    ({"processes": 2}, "run.processes must be at least 1, and 1 but for launch=torchrun, got 2"),
    ({"timeout_s": 0}, "run.timeout_s must be above 0, got 0"),
    ({"cwd": "/nowhere"}, "run.cwd: there is no folder '/nowhere'"),
    ({"environment": {"A": [3]}}, "run.environment.A must be text or a number, got [3]"),
    ({"environment": {"A=B": 3}}, "run.environment.A=B: 'A=B' is no name of a variable"),
    ({"environment": {"HPTRANSFER_LR": 3}}, "run.environment.HPTRANSFER_LR: names that begin with HPTRANSFER_"),
]
SIZES = """
def count(width, depth=2): return 12 * depth * width**2
def needs_depth(width, depth): return 1
def fails(width, **more): raise ValueError("x")
def tuned(lr): return 1
"""


@pytest.mark.parametrize(("run", "message"), BAD)
def test_bad_input_is_one_line_before_anything_runs(here: Path, run: dict[str, Any], message: str) -> None:
    (here / "sizes.py").write_text(SIZES)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        plan_of(here, BOWL, **run)
    assert "\n" not in str(caught.value)


FILES = [
    ({"command": "python train.py"}, "run.command takes a list"),
    ({"metric": {"keyy": "x"}}, "run.metric.keyy: there is no such key"),
    ({"timeout_s": "soon"}, "run.timeout_s takes a number, got 'soon'"),
    ({"command": "???"}, "run.command must be given"),
]


@pytest.mark.parametrize(("run", "message"), FILES)
def test_what_a_file_says_wrongly_is_named_by_its_key(here: Path, run: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        plan_of(here, BOWL, **run)


def test_a_script_that_is_not_there_is_said_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep(here, cwd=str(here), command=["python", "trian.py", "{width}", "{lr}"])
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(path), f"runs={here / 'runs'}"])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert f"run.command: there is no file 'trian.py' in {here}; correct its name" in error
    assert not (here / "runs").exists()


def test_only_names_are_swept(here: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("grid.width.path must be run.names.NAME under run=script, got")):
        plan_of(here, BOWL, "grid.width.path=run.command")


def test_overrides_are_checked_too(here: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("run.command takes a list")):
        plan_of(here, BOWL, "run.command=python")
    with pytest.raises(ConfigError, match=re.escape("unknown key 'comand'. Did you mean 'command'?")):
        plan_of(here, BOWL, "run.comand=[a]")
    with pytest.raises(ConfigError, match=re.escape("'seed' is swept, but neither")):
        plan_of(here, BOWL, "run.command=[python,train.py,'{width}','{lr}']", "seeds=2")
    with pytest.raises(ConfigError, match=re.escape("grid.width: run.names.width takes whole numbers, got 96.5")):
        plan_of(here, BOWL, "target.width=96.5")


def test_a_path_is_needed_where_there_are_no_names(tmp_path: Path) -> None:
    source = (ROOT / "sweeps" / "quickstart.yaml").read_text()
    (tmp_path / "x.yaml").write_text(source.replace("path: run.model.width, ", ""))
    with pytest.raises(ConfigError, match=re.escape("grid.width.path must be given, such as run.model.width")):
        compose(str(tmp_path / "x.yaml"))


def test_costs_are_formulas_or_functions(here: Path) -> None:
    (here / "sizes.py").write_text(SIZES)
    plan = plan_of(here, BOWL, params="sizes:count")
    assert [plan.sizes[scale].params for scale in plan.scales] == [24 * width**2 for width in (32, 64, 128)]
    assert plan.sizes[plan.target].flops == 6 * 24 * 256**2 * 1000
    plan = plan_of(here, BOWL, flops="2 * params * tokens + seed_cost", names={"seed_cost": 5})
    assert plan.sizes[plan.scales[0]].flops == 2 * 12 * 32**2 * 1000 + 5


def test_a_complement_has_a_name_of_its_own(here: Path) -> None:
    plan = plan_of(here)
    (here / "bowl.yaml").write_text(
        (here / "bowl.yaml")
        .read_text()
        .replace("lr:\n", "lr:\n    complement: true\n    path: run.names.momentum\n")
        .replace("'{lr}'", "'{momentum}'")
    )
    plan = make_plan(compose(str(here / "bowl.yaml"), []))
    assert plan.run(plan.target, {"lr": 0.25})["names"] == {"width": 256, "momentum": 0.75}


# --- its identity ----------------------------------------------------------------------------------


def test_another_script_is_another_sweep(here: Path) -> None:
    first = plan_of(here)
    assert plan_of(here).fingerprint == first.fingerprint
    other = plan_of(here, BOWL + "\n# changed\n")
    (line,) = differences(identity(first.config, first.fingerprint), identity(other.config, other.fingerprint))
    assert line == f"the content of train.py is {first.fingerprint} there, {other.fingerprint} here"


def test_what_changes_no_number_extends_a_run(here: Path) -> None:
    first = plan_of(here)
    second = plan_of(here, BOWL, timeout_s=60, grace_s=1, params="13 * width**2")
    assert differences(identity(first.config, "d"), identity(second.config, "d")) == []
    trials = [plan.trial(plan.scales[0], {"lr": 0.5}, 0).id for plan in (first, second)]
    assert trials[0] == trials[1]
    third = plan_of(here, BOWL, metric={"reduce": "minimum"})
    (line,) = differences(identity(first.config, "d"), identity(third.config, "d"))
    assert line == "run.metric.reduce is last there, minimum here"


def test_a_new_time_limit_holds_for_trials_that_are_unfinished(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    words = ("sweep", "bowl.yaml", "grid.width.values=[32]", "target.width=32", "space.lr.count=3", "space.lr.extend=0")
    command(*words, "budget.trials=1", cwd=tmp_path)
    done = command(*words, "run.timeout_s=60", cwd=tmp_path)
    folder = RunFolder(tmp_path / "runs" / "bowl")
    assert list(outcomes(folder).values()) == [DONE] * 3, done.stdout + done.stderr
    assert sorted(str(trial.run["timeout_s"]) for trial in folder.read_trials()) == ["60.0", "60.0", "None"]


def test_a_plan_says_that_time_is_unknown_until_it_was_measured(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    planned = command("plan", "bowl.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "device-hours unknown, as nothing was measured yet" in planned.stdout
    plan = plan_of(tmp_path, BOWL)
    trial, outcome, folder = execute(plan)
    from hptransfer.core.files import write_json

    write_json(folder.outcome_path(trial.id), outcome.to_json())
    seconds = seconds_by_scale(make_plan(plan.config))
    assert seconds[plan.scales[0]] == outcome.seconds
    assert seconds[plan.scales[1]] == pytest.approx(4 * outcome.seconds)


# --- several processes -----------------------------------------------------------------------------


def test_torchrun_meets_on_this_machine_or_across_the_allocations_nodes(here: Path) -> None:
    plan = plan_of(here, BOWL, launch="torchrun", processes=2)
    config = from_json(plan.run(plan.scales[0], {"lr": 0.5}))
    names = {**config.names, "seed": 0, "python": "py", "trial": "3f", "attempt": 2}
    alone = arguments(config, names, {"SLURM_JOB_NUM_NODES": "1"})
    torchrun = ["py", "-m", "torch.distributed.run", "--nproc-per-node=2"]
    assert alone == [*torchrun, "--standalone", "--no-python", "py", "train.py", "32", "0.5", "0"]
    across = arguments(config, names, {"SLURM_JOB_NUM_NODES": "2"})
    assert across[:3] == ["srun", "--nodes=2", "--ntasks=2"]
    assert "--ntasks-per-node=1" in across
    assert across[across.index("py") :][:4] == torchrun
    assert {"--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=3f-2"} < set(across)
    assert across[-5:] == ["py", "train.py", "32", "0.5", "0"]
    assert not any(word == "--standalone" for word in across)
