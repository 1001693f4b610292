"""Each way in which a script can end, by itself or with its worker."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hptransfer.core.errors import Interrupted, Superseded
from hptransfer.core.io import read_jsonl, write_json
from hptransfer.core.records import (
    CODE_ERROR,
    DIVERGED,
    DONE,
    FAILED,
    KILLED,
    OUT_OF_MEMORY,
    PREEMPTED,
    TIME_LIMIT,
    Job,
)
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import Plan
from hptransfer.worker.job import run_job
from tests.support.helpers import environment, outcomes
from tests.support.scripts import execute, plan_of, points, reports
from tests.support.waiting import Process, alive, kill, wait_until

# --- how it can end --------------------------------------------------------------------------------

SLEEP = "import pathlib, time; time.sleep(300); pathlib.Path('slept').touch()"
"""A script that leaves a file if it is not ended."""
WAIT_UNTIL_READ = """
import time
curve = os.path.join(os.environ["HPTRANSFER_TRIAL_DIR"], "metrics.jsonl")
while not (os.path.exists(curve) and os.path.getsize(curve)):
    time.sleep(0.01)
"""
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
    ("x = 1", {}, CODE_ERROR, "the metric was never reported: no 'loss' in the lines"),
    (reports('{"step": 1, "los": 2}'), {}, CODE_ERROR, "the metric was never reported: no 'loss' in the lines"),
    (reports('{"step": 1, "loss": "low"}'), {}, CODE_ERROR, "'loss' must be a number, got 'low'"),
    (reports('{"step": 1.5, "loss": 2}'), {}, CODE_ERROR, "'step' must be a whole number, got 1.5"),
    (reports('{"step": 1e30, "loss": 2}'), {}, CODE_ERROR, "must be a whole number, got 1e+30; it has at most 64 bits"),
    (reports('{"step": 1, "loss": "2.5"}'), {}, CODE_ERROR, "'loss' must be a number, got '2.5'"),
    (reports('{"step": 1, "loss": 2, "diverged": "false"}'), {}, CODE_ERROR, "must be true or false, got 'false'"),
    (reports("loss 2"), {}, CODE_ERROR, "has a line that is not JSON: 'loss 2'"),
    (reports("[1, 2]"), {}, CODE_ERROR, "must have lines such as"),
    (reports(*points(2))[:-4] + "{'); sys.exit(0)", {}, CODE_ERROR, "a line that was cut off"),
    ("print('step 1')", {"metric": {"pattern": "loss=(?P<loss>.*)"}}, CODE_ERROR, "matched no printed line"),
    (
        "print('hello\\n\\nval 3\\nval 2\\nval 1')",
        {"metric": {"pattern": r"loss (?P<loss>\S+)"}},
        CODE_ERROR,
        r"run.metric.pattern 'loss (?P<loss>\S+)' matched no printed line; the first were 'hello', 'val 3', 'val 2'",
    ),
    ("print('loss=low')", {"metric": {"pattern": "loss=(?P<loss>.*)"}}, CODE_ERROR, "finds 'low' in 'loss=low'"),
    (
        reports(*points(3, 2)),
        {"metric": {"reduce": "mean", "points": 3}},
        CODE_ERROR,
        "was reported 2 times, and run.metric is the mean of the last 3",
    ),
    (
        "import os; os.remove(os.environ['HPTRANSFER_METRICS'])",
        {},
        CODE_ERROR,
        "the file HPTRANSFER_METRICS was removed while the script ran",
    ),
    (
        reports(*points(3, 2), then=f"{WAIT_UNTIL_READ}open(os.environ['HPTRANSFER_METRICS'], 'w')"),
        {},
        CODE_ERROR,
        "the file HPTRANSFER_METRICS became shorter; open it to append to it",
    ),
    (SLEEP, {"timeout_s": 0.3}, TIME_LIMIT, "it ran longer than run.timeout_s (0.3 s)"),
    ("", {"command": ["no-such-program", "{width}{lr}"]}, CODE_ERROR, "exit code 127: cannot start 'no-such-program'"),
]


@pytest.mark.parametrize(("script", "run", "cause", "message"), FAILURES)
def test_each_failure_is_one_clear_line(here: Path, script: str, run: dict[str, Any], cause: str, message: str) -> None:
    _, outcome, _ = execute(plan_of(here, script, **run))
    assert (outcome.state, outcome.cause) == (FAILED, cause), outcome
    assert outcome.error is not None
    assert message in outcome.error
    assert "\n" not in outcome.error
    assert not (here / "slept").exists()


def test_a_limit_by_other_trials_ends_a_script_that_asked_for_it(here: Path) -> None:
    plan = plan_of(here, SLEEP, timeout_factor=5)
    trial = plan.trial(plan.scales[0], {"lr": 2**-6}, 0)
    plan.config.folder.create()
    plan.config.folder.write_trial(trial)
    write_json(plan.config.folder.limit_path(trial.id), {"seconds": 0.4})
    _, outcome, _ = execute(plan)
    assert (outcome.state, outcome.cause) == (FAILED, TIME_LIMIT)
    assert outcome.error == "it ran longer than 5 times the longest finished trial of its scale (0 s)"


@pytest.mark.parametrize(
    ("script", "run"),
    [
        (reports(*points(3), '{"step": 20, "loss": NaN}', then=SLEEP), {}),
        (reports(*points(3), '{"step": 20, "loss": Infinity}'), {}),
        (reports(*points(3), '{"step": 20, "loss": null}'), {}),
        (reports(*points(3), '{"step": 20, "loss": "NaN"}', *points(2)), {}),
        (reports(*points(3), '{"step": 20, "loss": "-Infinity"}'), {}),
        (reports(*points(3), '{"step": 20, "loss": "inf"}'), {}),
        (reports(*points(3), '{"step": 20, "loss": -nan, "a": 1}'), {}),  # as C prints it
        ("import hptransfer; hptransfer.report(1, loss=3, a=None); hptransfer.report(2, loss=None)", {}),
        (reports(*points(3), '{"step": 20, "diverged": true}', then="sys.exit(1)"), {}),
        ("print('3'); print('nan')", {"metric": {"pattern": r"(?P<loss>[\d.]+|nan)"}}),
        ("print('3'); print('loss exploded')", {"metric": {"pattern": r"(?P<loss>[\d.]+)|(?P<diverged>exploded)"}}),
    ],
)
def test_a_loss_that_is_not_finite_is_an_outcome_and_ends_the_script(
    here: Path, script: str, run: dict[str, Any]
) -> None:
    _, outcome, _ = execute(plan_of(here, script, **run))
    assert (outcome.state, outcome.loss, outcome.initial_loss) == (DIVERGED, None, 3.0)
    assert not (here / "slept").exists()


# --- what a script does to its trial ---------------------------------------------------------------


def write_job(plan: Plan, *rates: float) -> RunFolder:
    """A run folder with a job of trials of the smallest scale."""
    folder = plan.config.folder
    folder.create()
    trials = [plan.trial(plan.scales[0], {"lr": rate}, 0) for rate in rates]
    for trial in trials:
        folder.write_trial(trial)
    folder.write_job(Job(id="job", trials=[t.id for t in trials], scale=trials[0].scale, params=1, flops=1.0))
    return folder


@pytest.mark.parametrize(
    ("clear", "last"),
    [
        ("shutil.rmtree(folder)", "time.sleep(300)"),
        ("shutil.rmtree(folder); os.makedirs(folder)", "print('loss 2')"),
        ("[os.remove(os.path.join(folder, name)) for name in os.listdir(folder)]", "print('loss 2')"),
        ("shutil.rmtree(folder)", "sys.exit(3)"),
        ("shutil.rmtree(folder); open(folder, 'w').close()", "print('loss 2')"),
        (
            "shutil.rmtree(folder); os.makedirs('elsewhere'); os.symlink(os.path.abspath('elsewhere'), folder)",
            "sys.exit(3)",
        ),
        ("os.rename(folder, folder + '.moved')", "print('loss 2')"),
        ("shutil.copytree(folder, folder + '_backup')", "sys.exit(3)"),
        ("os.mkdir(os.path.join(folder, 'outcome.json'))", "sys.exit(3)"),
        ("open(os.path.join(folder, 'outcome.json'), 'w').write('{}')", "sys.exit(3)"),
    ],
)
def test_a_script_that_removes_its_folder_fails_alone(here: Path, clear: str, last: str) -> None:
    script = "import os, shutil, sys, time; folder = os.environ['HPTRANSFER_TRIAL_DIR']; print('loss 3', flush=True)"
    bad = f"{script}\nif sys.argv[2] == '{2**-6}':\n    {clear}\n    {last}\nelse: print('loss 2')"
    plan = plan_of(here, bad, metric={"pattern": r"loss (?P<loss>\d)"}, grace_s=0.2)
    folder = write_job(plan, 2**-6, 2**-5)
    trials = folder.read_trials()
    assert run_job(folder, "job") is None
    failed, done = sorted((folder.read_outcome(t.id) for t in trials), key=lambda o: str(o and o.state), reverse=True)
    assert failed is not None
    assert done is not None
    assert (failed.state, failed.cause, done.state) == (FAILED, CODE_ERROR, DONE)
    assert "the script removed files of its folder HPTRANSFER_TRIAL_DIR" in str(failed.error) or "exit" in last
    assert folder.read_trials() == trials
    assert not [*here.glob("elsewhere/*")]


@contextlib.contextmanager
def printing_to(path: str) -> Iterator[None]:
    """Let this process, and all that it starts, print to a file."""
    sys.stdout.flush()
    before, file = os.dup(1), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(file)


PRINTS_FOR_EVER = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("asked").touch(), exit()))
signal.alarm(20)
while True:
    print("x" * 10000, flush=True)
"""


def test_a_disk_that_is_full_while_a_script_prints_ends_the_script(here: Path) -> None:
    with printing_to("/dev/full"), pytest.raises(OSError, match="No space left on device"):
        execute(plan_of(here, PRINTS_FOR_EVER))
    assert (here / "asked").exists()  # it had its grace


class FullAtTheEnd(io.StringIO):
    """A log whose disk is full as a trial has ended."""

    def flush(self) -> None:
        if "done" in self.getvalue():
            raise OSError(errno.ENOSPC, "No space left on device")


def test_the_outcome_is_written_although_the_log_is_full(here: Path) -> None:
    plan = plan_of(here, "import hptransfer; hptransfer.report(loss=2.0)")
    folder = write_job(plan, 2**-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", FullAtTheEnd())
        assert str(run_job(folder, "job")).startswith("No space left on device")
    assert list(outcomes(folder).values()) == [DONE]


# --- interruptions ---------------------------------------------------------------------------------

RESUMING = """
import os, pathlib, signal, sys, time
import hptransfer
state = pathlib.Path(os.environ["HPTRANSFER_TRIAL_DIR"], "checkpoint.txt")
first = int(state.read_text()) if state.exists() else 0
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(pathlib.Path("asked").touch()))
for step in range(first + 1, 11):
    hptransfer.report(step=step, loss=float(100 - step + 1000 * int(os.environ["HPTRANSFER_ATTEMPT"])))
    if step == 4:
        state.write_text("4")
    if os.environ["HPTRANSFER_ATTEMPT"] == "1" and step == 6:
        pathlib.Path("ready").touch()
        time.sleep(300)
    if asked:
        sys.exit(0)  # which is not to be taken for its end
"""


def test_a_script_that_is_stopped_goes_on_where_it_was_and_no_point_is_doubled(here: Path) -> None:
    plan = plan_of(here, RESUMING.replace("time.sleep(300)", "[time.sleep(0.02) for _ in range(15000) if not asked]"))
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

    trial = plan.trial(plan.scales[0], {"lr": 2**-6}, 0)
    curve = plan.config.folder.curve_path(trial.id)
    with pytest.raises(Superseded):
        execute(plan, stop=stop)
    assert curve.read_text() == "the other's\n"
    assert not (here / "asked").exists()  # which would leave it time
    reported = plan.config.folder.trial(trial.id) / "reported.jsonl"
    assert len(reported.read_text().splitlines()) == 6


def test_a_script_that_does_not_listen_is_ended_after_its_grace(here: Path) -> None:
    script = f"""
import pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("ready").touch()
{SLEEP}
"""
    plan = plan_of(here, script, grace_s=0.2)
    with pytest.raises(Interrupted):
        execute(plan, stop=lambda: PREEMPTED if (here / "ready").exists() else None)
    assert not (here / "slept").exists()


def test_a_script_and_its_children_end_with_their_worker(here: Path) -> None:
    """Killed without a word, as by an out-of-memory killer: its next attempt must not find it still training."""
    script = SLEEPERS + "time.sleep(300)"
    plan_of(here, script)
    code = "import sys; from pathlib import Path; from tests.support.scripts import *"
    code += "; execute(plan_of(Path(sys.argv[1]), sys.argv[2]))"
    words = [sys.executable, "-c", code, str(here), script]
    with Process(words, env=environment(), stdout=subprocess.DEVNULL) as worker:
        wait_until((here / "ready").exists, "the script", process=worker)
        pids = [int(word) for word in (here / "ready").read_text().split()]
        try:
            assert all(alive(pid) for pid in pids)
            worker.kill()
            wait_until(lambda: not any(alive(pid) for pid in pids), "the end of all children")
        finally:
            kill(pid for pid in pids if alive(pid))


# Children as torchrun starts them, in sessions of their own, among them.
SLEEPERS = """
import os, subprocess, sys, time
sleep = ["sleep", "300"]
children = [subprocess.Popen(sleep, start_new_session=own) for own in (False, True)]
open("pids", "w").write(" ".join(map(str, [os.getpid(), *(child.pid for child in children)])))
os.rename("pids", "ready")
"""


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ("", DONE),
        ("sys.exit(3)", FAILED),
        ("signal.signal(15, signal.SIG_IGN); hptransfer.report(step=2, diverged=True); time.sleep(300)", DIVERGED),
    ],
)
def test_nothing_that_a_script_started_outlives_it(here: Path, last: str, state: str) -> None:
    script = SLEEPERS + f"import signal, hptransfer; hptransfer.report(step=1, loss=2.0); {last}"
    _, outcome, _ = execute(plan_of(here, script, grace_s=0.2))
    assert outcome.state == state
    assert not any(alive(int(pid)) for pid in (here / "ready").read_text().split())


def test_a_script_that_is_ended_with_its_worker_is_no_failure_of_its_own(here: Path) -> None:
    """Who ends a job signals both at once; the script may be the faster."""
    script = "import os, pathlib; pathlib.Path('ready').write_text(str(os.getpid())); os.kill(os.getpid(), 15)"
    after_its_end = iter([None])

    def stop() -> str | None:
        pid = here / "ready"
        ended = pid.exists() and pid.read_text() and not alive(int(pid.read_text()))
        return next(after_its_end, PREEMPTED) if ended else None

    with pytest.raises(Interrupted) as caught:
        execute(plan_of(here, script), stop=stop)
    assert str(caught.value) == PREEMPTED


def test_a_loss_too_long_for_a_number_is_unusable(here: Path) -> None:
    huge = (
        "import os; open(os.environ['HPTRANSFER_METRICS'], 'w').write('{\"step\": 1, \"loss\": 1' + '0' * 400 + '}\\n')"
    )
    _, outcome, _ = execute(plan_of(here, huge))
    assert (outcome.state, outcome.cause) == (FAILED, CODE_ERROR)
    assert "'loss' must be a number" in str(outcome.error)
