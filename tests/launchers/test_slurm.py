"""Requests, scripts and states of launcher=slurm, with made-up answers instead of a cluster."""

import json
import os
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hptransfer.config.compose import compose
from hptransfer.core.errors import ConfigError, StoppedError
from hptransfer.core.io import write_json
from hptransfer.core.records import (
    CANCELLED,
    DONE,
    KILLED,
    NODE_FAILURE,
    OUT_OF_MEMORY,
    PREEMPTED,
    TIME_LIMIT,
    Job,
    Outcome,
    Scale,
)
from hptransfer.core.run_folder import RunFolder
from hptransfer.launchers.slurm import launcher as launcher_module
from hptransfer.launchers.slurm import submitit_adapter
from hptransfer.launchers.slurm.commands import CallError, SlurmCommands, scrubbed_variables
from hptransfer.launchers.slurm.config import SlurmConfig
from hptransfer.launchers.slurm.job_resources import Resources
from hptransfer.launchers.slurm.job_script import array_script, clean_name
from hptransfer.launchers.slurm.launcher import SlurmLauncher
from hptransfer.launchers.slurm.limits import Limits, chunks, read_limits, shares
from hptransfer.launchers.slurm.node_exclusion import NodeExclusion
from hptransfer.launchers.slurm.states import END_CAUSES, describe_end, expand_ids, full_state, read_accounting
from hptransfer.launchers.slurm.submission import at_limit, script_template
from hptransfer.monitor.tables import plan_table
from hptransfer.planning.plan import make_plan
from tests.support.helpers import command, tiny


def job(number: int = 0, **values) -> Job:
    scale = Scale(values.pop("axes", {"width": 1024, "tokens": 10**6}))
    defaults = {"id": f"job{number}", "trials": [f"trial{number}"], "params": 3 * 10**9, "flops": 1e18}
    return Job(**{**defaults, "scale": scale, **values})


def settings(**values) -> SlurmConfig:
    config = SlurmConfig(**{"max_attempts": 5, **values})
    config.check("launcher")
    return config


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def script(folder: RunFolder, config: SlurmConfig, *jobs: Job, share: int = 1, exclude: tuple[str, ...] = ()) -> str:
    jobs = jobs or (job(),)
    resources = config.resources(jobs[0], None)
    return array_script(script_template(config, folder), folder, jobs, resources, share=share, exclude=exclude)


def flags(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


# --- what a job asks for ---


def test_a_rule_is_arithmetic_over_the_job():
    found = settings(gpus="ceil(params / 1e9)", time="10 + tokens / 1e5", memory="width / 256").resources(job(), None)
    assert (found.gpus, found.minutes, found.memory_mib) == (3, 20, 4096)


@pytest.mark.parametrize(("given", "minutes"), [(90, 90), ("1:30:00", 90), ("1-00:30:00", 1470), ("2:30", 3)])
def test_a_time_is_minutes_or_written_as_the_scheduler_does(given, minutes):
    assert settings(time=given).resources(job(), None).minutes == minutes


def test_the_first_row_that_matches_the_scale_counts():
    rows = [{"when": "width >= 1024 and tokens < 10", "gpus": 8}, {"when": "width >= 512", "gpus": 4, "qos": "long"}]
    config = settings(gpus=1, by_scale=[*rows, {"gpus": 2}])
    assert config.resources(job(), None) == Resources(gpus=4, qos="long")
    assert config.resources(job(axes={"width": 256, "tokens": 1}), None) == Resources(gpus=2)


def test_without_a_time_the_limit_goes_by_the_estimate_in_steps():
    limits = [settings(time_margin=3).resources(job(seconds=seconds), None).minutes for seconds in (1, 599, 601, 7200)]
    assert limits == [10, 40, 40, 453]


def test_without_a_time_or_an_estimate_the_partition_sets_the_limit(folder):
    assert not any(flag.startswith("--time") for flag in flags(script(folder, settings())))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"gpus": "__import__('os').getpid()"}, "gpus"),
        ({"cpus": "1:30:00"}, "cpus"),
        ({"cpus": 0}, "at least 1"),
        ({"memory": "lots"}, None),
        ({"time": True}, "rule"),
        ({"by_scale": [{"when": "width", "gpus": 1}]}, "compare"),
        ({"by_scale": [{"gpu": 1}]}, "Did you mean 'gpus'"),
        ({"gpus": 0.5}, "gpus must be a whole number, got 0.5"),
        ({"sbatch": {"t": 3}}, "write its long name"),
        (
            {"sbatch": {"signal": "B:USR1@60"}},
            "must leave USR2 to the worker, which other signals end, got 'B:USR1@60'",
        ),
        ({"sbatch": {"signal": "B:1@60"}}, "must leave USR2 to the worker"),
        ({"driver_sbatch": {"signal": "BR:INT"}}, "must leave USR2 to the worker"),
        ({"poll_min_s": 60, "poll_max_s": 30}, "poll_max_s"),
    ],
)
def test_a_setting_that_no_job_could_have_is_refused(values, says):
    if says is None:  # a name, of which only the job can say that there is none
        with pytest.raises(ConfigError, match="unknown name 'lots'"):
            settings(**values).resources(job(), None)
    else:
        with pytest.raises(ConfigError, match=says):
            settings(**values)


def test_a_rule_that_names_what_the_sweep_has_not_is_refused_by_its_plan(tmp_path: Path) -> None:
    rules = ("launcher=slurm", "launcher.gpus='1 + widht // 64'")
    with pytest.raises(ConfigError, match=r"launcher.gpus: unknown name 'widht'. Did you mean 'width'"):
        make_plan(tiny(tmp_path, *rules))
    make_plan(tiny(tmp_path, "launcher=slurm", "launcher.gpus='1 + width // 64'"))


def test_a_plan_for_a_cluster_counts_its_trials_not_its_slots(tmp_path: Path) -> None:
    plan = make_plan(tiny(tmp_path, "launcher=slurm", "launcher.gpus=2", inline=False))
    *_, total, _ = plan_table(plan, dict.fromkeys((*plan.scales, plan.target), 600.0))
    assert "2 device-hours; about 10m00s on nodes as fast as this machine, if 6 trials run at a time" in str(total)


# --- the script ---


def test_the_script_runs_each_job_under_its_own_number(folder):
    """The shell's part of it, with the worker replaced by a program that prints its arguments."""
    config = settings(python="echo", setup=["export FLAVOUR=vanilla"], wrapper="env")
    text = script(folder, config, job(0), job(1, attempt=4), share=2)
    assert "--array=0-1%2" in flags(text)
    done = subprocess.run(["bash", "-c", text], env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"}, check=True)
    assert done.returncode == 0
    said = (folder.jobs / "job1.log").read_text()
    assert said == f"-m hptransfer.worker {folder.path.absolute()} job1 4\n"


def test_a_warning_before_the_worker_listens_does_not_kill_it(folder):
    text = script(folder, settings(python="true", setup=["kill -USR2 $$", "echo survived"]))
    subprocess.run(["bash", "-c", text], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, check=True)
    assert (folder.jobs / "job0.log").read_text() == "survived\n"


def test_resources_become_flags(folder):
    config = settings(gpus=2, nodes=2, tasks=4, cpus=8, memory="16G", time=60, partition="low", constraint="a100&ib")
    found = flags(script(folder, config))
    assert {"--gpus-per-node=2", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=8", "--mem=16384M"} < set(found)
    assert {"--time=60", "--partition=low", "--constraint='a100&ib'"} < set(found)


def test_any_flag_is_passed_on_and_null_removes_one(folder):
    given = {"mail_type": "END", "exclusive": True, "signal": None, "open-mode": None, "nodes": None, "requeue": None}
    found = flags(script(folder, settings(sbatch=given, time=60)))
    assert {"--mail-type=END", "--exclusive"} < set(found)
    assert not {flag.partition("=")[0] for flag in found} & {"--signal", "--open-mode", "--nodes", "--requeue"}


@pytest.mark.parametrize("signal", ["B:USR2@60", "B:SIGUSR2@60", "B:12", "USR1@60", "R:USR1@60"])
def test_a_signal_that_the_worker_lives_with_is_passed_on(folder, signal):
    assert f"--signal={signal}" in flags(script(folder, settings(sbatch={"signal": signal}, time=60)))


def test_a_flag_given_twice_stands_once(folder):
    found = flags(script(folder, settings(partition="low", sbatch={"partition": "high", "open-mode": "truncate"})))
    assert [flag for flag in found if "partition" in flag or "open-mode" in flag] == [
        "--open-mode=truncate",
        "--partition=high",
    ]


@pytest.mark.parametrize(("minutes", "signal"), [(2, None), (5, "--signal=B:USR2@30"), (60, "--signal=B:USR2@120")])
def test_the_warning_comes_late_in_the_time_limit(folder, minutes, signal):
    found = [flag for flag in flags(script(folder, settings(time=minutes))) if "signal" in flag]
    assert found == ([signal] if signal else [])


def test_the_worker_knows_when_its_time_ends_and_how_often_to_save(folder):
    config = settings(time=60, checkpoint_s=77, stack=5, python="env ; true")
    text = script(folder, config).replace("exec env", "env")
    began = int(time.time())
    subprocess.run(["bash", "-c", text], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, check=True)
    values = dict(line.partition("=")[::2] for line in (folder.jobs / "job0.log").read_text().splitlines())
    assert began <= int(values["HPTRANSFER_DEADLINE"]) - 3600 <= time.time()
    assert values["HPTRANSFER_CHECKPOINT_S"] == "77"
    assert values["HPTRANSFER_STACK"] == "5"


@pytest.mark.parametrize(
    "values",
    [
        {"partition": "low\n#SBATCH --uid=0"},
        {"sbatch": {"comment": "a\nrm -rf /"}},
        {"sbatch": {"comment\n": "a"}},
        {"sbatch": {"comment=a --uid": "0"}},
        {"sbatch": {"array": "0-9"}},
        {"sbatch": {"job_name": "mine"}},
        {"setup": ["module load a\nmodule load b"]},
        {"setup": ["#SBATCH --uid=0"]},
        {"container_image": "a\r#SBATCH"},
        {"by_scale": [{"account": "a\nb"}]},
    ],
)
def test_user_text_cannot_add_a_line(values):
    with pytest.raises(ConfigError):
        settings(**values)


def test_a_value_stays_one_word(folder):
    found = flags(script(folder, settings(sbatch={"comment": "a; $(id) 'b' --uid=0"})))
    comment = next(flag for flag in found if flag.startswith("--comment"))
    assert shlex.split(comment) == ["--comment=a; $(id) 'b' --uid=0"]


def test_a_folder_with_strange_letters_is_quoted(tmp_path):
    folder = RunFolder(tmp_path / "it's 100% $HOME")
    folder.create()
    text = script(folder, settings(python="echo"))
    subprocess.run(["bash", "-c", text], env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"}, check=True)
    assert str(folder.path) in (folder.jobs / "job0.log").read_text()
    assert any(flag.startswith("--output=") and "100%% $HOME" in shlex.split(flag)[0] for flag in flags(text))


@pytest.mark.parametrize("name", ["../../etc", "a b\n#SBATCH", "-x", "ü", "%j"])
def test_a_job_name_is_plain(name):
    assert set(clean_name(name)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not clean_name(name).startswith(("-", "."))


def test_nothing_of_an_allocation_around_it_reaches_a_submission(monkeypatch):
    around = {"SLURM_CPU_BIND": "x", "SBATCH_PARTITION": "y", "PMIX_RANK": "0", "SLURM_CONF": "z", "HOME": "/"}
    assert scrubbed_variables(around) == ["PMIX_RANK", "SBATCH_PARTITION", "SLURM_CPU_BIND"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    said = SlurmCommands().run("env").splitlines()
    assert "SLURM_CONF=/etc/slurm.conf" in said
    assert not [line for line in said if line.startswith("SLURM_JOB")]


def test_the_dry_run_prints_a_script_for_each_class(tmp_path):
    rows = "launcher.by_scale=[{when: 'width > 100', gpus: 1}]"
    done = command("sweep", "quickstart", "launcher=slurm", rows, f"runs={tmp_path}", "--dry-run")
    assert done.returncode == 0, done.stderr
    scripts = done.stdout.split("#!/bin/bash")[1:]
    assert len(scripts) == 2
    assert sum("--gpus-per-node=1" in text for text in scripts) == 1
    assert not list(tmp_path.iterdir())


def test_a_driver_that_is_a_job_needs_a_launcher_that_says_how():
    with pytest.raises(ConfigError, match="driver=slurm needs launcher=slurm"):
        compose("quickstart", ["driver=slurm"])


# --- limits ---


def test_chunks_are_as_equal_as_can_be_and_none_too_long():
    assert [len(part) for part in chunks(range(25), 10)] == [8, 8, 9]
    assert chunks([], 10) == []


@pytest.mark.parametrize(
    ("total", "sizes"), [(50, [1000, 1000, 1000]), (7, [1, 20]), (2, [5, 5, 5]), (0, [4]), (9, [2, 1])]
)
def test_arrays_share_what_may_run(total, sizes):
    found = shares(total, sizes)
    assert sum(found) == min(total, sum(sizes))
    assert all(share <= size for share, size in zip(found, sizes, strict=True))


class Answers(SlurmCommands):
    """Made-up answers by command; None: it fails."""

    def __init__(self, **answers: str | None) -> None:
        super().__init__()
        self.answers: dict[str, str | None] = answers
        self.made: list[tuple[str, ...]] = []

    def run(self, *command: str) -> str:
        self.counts[command[0]] += 1
        self.made.append(command)
        answer = self.answers.get(command[0])
        if answer is None:
            raise CallError("Unable to contact slurm controller")
        return answer


def test_limits_are_the_least_of_what_the_cluster_says():
    calls = Answers(scontrol="MaxArraySize            = 1001\nSchedulerParameters     = bf_max,max_array_tasks=40\n")
    assert read_limits(calls, [], []).array == 40
    assert read_limits(Answers(), [], []).array == 1001
    assert read_limits(Answers(), [], []).submit is None


# --- states ---


def test_every_end_has_a_cause_but_the_good_one():
    assert {state for state, cause in END_CAUSES.items() if cause is None} == {"COMPLETED"}
    assert END_CAUSES["OUT_OF_MEMORY"] == OUT_OF_MEMORY
    assert END_CAUSES["TIMEOUT"] == END_CAUSES["DEADLINE"] == TIME_LIMIT
    assert END_CAUSES["NODE_FAIL"] == NODE_FAILURE
    assert not {"UNKNOWN", "PENDING", "REQUEUED", "COMPLETING", "SUSPENDED", "RESIZING", ""} & END_CAUSES.keys()


@pytest.mark.parametrize(
    ("text", "state"),
    [("CANCELLED by 1000", "CANCELLED"), ("OUT_OF_ME+", "OUT_OF_MEMORY"), ("RUNNING", "RUNNING"), ("CA+", "CANCELLED")],
)
def test_states_are_read_in_all_their_forms(text, state):
    assert full_state(text) == state


def test_lines_that_are_torn_or_of_whole_ranges_are_read():
    text = "12_0|FAILED|1:0|n1|7\n12_[2-3,5%2]|PENDING|0:0|None assigned|0\n12_1|OUT_OF_ME+|0:125|n2|9\n12_9|RUNN"
    found = read_accounting(text)
    assert found.keys() == {"12_0", "12_1", "12_2", "12_3", "12_5"}
    assert describe_end(found["12_0"]) == "FAILED, exit code 1 in SLURM"
    assert found["12_1"].state == "OUT_OF_MEMORY"
    assert found["12_2"].node == ""
    assert expand_ids("7") == ["7"]


# --- polling ---


class Clock:
    """Time that passes only while a launcher sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)

    def time(self) -> float:
        return time.time()


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    """The clock of all launchers here."""
    clock = Clock()
    monkeypatch.setattr(launcher_module, "time", clock)
    return clock


@pytest.fixture
def launcher(folder, monkeypatch):
    """Two jobs, 1_0 and 1_1, that the launcher has submitted to a cluster that is played here."""
    numbers = iter(range(1, 100))
    monkeypatch.setattr(submitit_adapter, "submit", lambda calls, text, keep: str(next(numbers)))
    launcher = SlurmLauncher(folder, settings(poll_min_s=0.01, poll_max_s=0.02, lost_after_s=0.3, grace_s=0.05))
    launcher.calls = launcher._submission.calls = Answers(
        sacct="", squeue="", scancel="", scontrol="MaxArraySize = 1001", sacctmgr=""
    )
    jobs = [job(0), job(1)]
    for one in jobs:
        folder.write_job(one)
        folder.trial(one.trials[0]).mkdir(parents=True)
        write_json(folder.trial(one.trials[0]) / "trial.json", {})
    assert launcher.submit(jobs) == {"job0": "1_0", "job1": "1_1"}
    return launcher


def answer(launcher, **answers: str | None) -> None:
    launcher.calls.answers |= answers


def finish(folder: RunFolder, number: int) -> None:
    outcome = Outcome(state=DONE, loss=1.0, loss_se=0.1)
    write_json(folder.outcome_path(f"trial{number}"), outcome.to_json())


def ends(launcher, timeout_s: float = 1.5) -> dict[str, str | None]:
    """Causes by job, once both have ended or the launcher has slept for this long."""
    found = {}
    deadline = launcher_module.time.monotonic() + timeout_s
    while launcher_module.time.monotonic() < deadline and len(found) < 2:
        found |= {ended.job: ended.cause for ended in launcher.wait(0.05)}
    return found


def test_an_end_has_its_cause(launcher):
    answer(launcher, sacct="1_0|OUT_OF_ME+|0:125|n1|70\n1_1|TIMEOUT|0:0|n2|70\n")
    assert ends(launcher) == {"job0": OUT_OF_MEMORY, "job1": TIME_LIMIT}


def test_a_job_with_outcomes_has_ended_whatever_accounting_says(launcher, folder):
    finish(folder, 0)
    answer(launcher, sacct="1_0|RUNNING|0:0|n1|70\n1_1|RUNNING|0:0|n2|70\n", squeue="")
    answer(launcher, squeue="1_0|RUNNING|n1|None\n1_1|RUNNING|n2|None\n")
    assert ends(launcher) == {"job0": None}


def test_an_unknown_state_is_not_an_end(launcher):
    answer(launcher, sacct="1_0|UNKNOWN|0:0|n1|7\n1_1|SPECIAL_EXIT_OF_A_LATER_VERSION|0:0|n1|7\n")
    answer(launcher, squeue="1_0|UNKNOWN|n1|None\n1_1|NEW|n1|None\n")
    assert ends(launcher) == {}


def test_silence_of_the_scheduler_is_not_an_end(launcher):
    answer(launcher, sacct=None, squeue=None)
    assert ends(launcher) == {}


def test_the_queue_answers_while_accounting_is_away(launcher):
    answer(launcher, sacct=None, squeue="1_0|NODE_FAIL|n1|None\n1_1|RUNNING|n2|None\n")
    assert ends(launcher) == {"job0": NODE_FAILURE}


def test_a_job_that_is_queued_again_has_not_ended(launcher):
    answer(launcher, sacct="1_0|PREEMPTED|0:0|n1|7\n1_1|NODE_FAIL|0:0|n2|7\n")
    answer(launcher, squeue="1_0|PENDING||BeginTime\n1_1|REQUEUED||None\n")
    assert ends(launcher) == {}
    states = json.loads((launcher._folder.jobs / "states.json").read_text())["jobs"]
    assert states["job0"] == {"state": "PENDING", "reason": "BeginTime", "node": "", "scheduler": "1_0"}


def test_an_end_is_not_believed_while_the_queue_cannot_confirm_it(launcher):
    answer(launcher, sacct="1_0|PREEMPTED|0:0|n1|7\n1_1|CANCELLED by 0|0:0|n2|7\n", squeue=None)
    assert ends(launcher) == {}
    answer(launcher, squeue="")
    assert ends(launcher) == {"job0": "preempted", "job1": CANCELLED}


def test_a_job_without_any_record_is_gone_after_a_while(launcher, clock):
    began = clock.now
    assert ends(launcher, 5) == {"job0": KILLED, "job1": KILLED}
    assert clock.now - began >= 0.3


def test_a_record_of_running_that_the_queue_has_forgotten_is_gone_too(launcher):
    answer(launcher, sacct="1_0|RUNNING|0:0|n1|70\n1_1|RUNNING|0:0|n2|70\n")
    assert ends(launcher, 5) == {"job0": KILLED, "job1": KILLED}


def test_all_jobs_are_asked_about_at_once_and_ever_more_seldom(launcher):
    launcher._config = replace(launcher._config, poll_min_s=0.05, poll_max_s=10)
    answer(launcher, sacct="1_0|RUNNING|0:0|n1|70\n1_1|RUNNING|0:0|n2|70\n")
    answer(launcher, squeue="1_0|RUNNING|n1|None\n1_1|RUNNING|n2|None\n")
    ends(launcher, 2)
    asked = [call for call in launcher.calls.made if call[0] == "sacct"]
    assert all("--jobs=1" in call for call in asked)
    assert 3 <= len(asked) <= 12  # a twentieth of a second for two seconds would be 40


@pytest.mark.parametrize(
    ("sacct", "squeue", "seconds"),
    [
        ("1_0|FAILED|1:0|n1|70\n1_1|RUNNING|0:0|n2|70\n", "1_1|RUNNING|n2|None\n", (70, 70)),
        (None, "1_0|FAILED|n1|None\n1_1|RUNNING|n2|None\n", (30, 60)),
    ],
)
def test_an_end_says_for_how_long_the_job_ran(launcher, clock, sacct, squeue, seconds):
    """By accounting, or as the queue showed it."""
    answer(launcher, sacct=None, squeue="1_0|RUNNING|n1|None\n1_1|RUNNING|n2|None\n")
    ends(launcher, 0.3)
    clock.now += 30
    ends(launcher, 0.3)
    answer(launcher, sacct=sacct, squeue=squeue)
    ended = next(ended for _ in range(400) for ended in launcher.wait(0.05))
    assert ended.job == "job0"
    assert seconds[0] <= ended.seconds <= seconds[1]


def test_a_worker_that_left_says_why(launcher, folder):
    for number, why in enumerate(("time limit", "cancelled")):
        (folder.jobs / f"job{number}.log").write_text(f"step 1\njob job{number} stops: {why}\n")
    answer(launcher, sacct="1_0|FAILED|75:0|n1|70\n1_1|FAILED|75:0|n2|70\n")
    # Nobody asked for the other to be cancelled: a signal came late, such as one meant for the run before.
    assert ends(launcher) == {"job0": TIME_LIMIT, "job1": PREEMPTED}


def test_a_full_disk_stops_the_sweep(launcher, folder):
    (folder.jobs / "job0.log").write_text("job job0 stops: No space left on device (runs/x)\n")
    answer(launcher, sacct="1_0|FAILED|5:0|n1|70\n1_1|RUNNING|0:0|n2|70\n", squeue="1_1|RUNNING|n2|None\n")
    ended = next(ended for _ in range(40) for ended in launcher.wait(0.05))
    assert ended.stopped == "No space left on device (runs/x)"


def test_cancelled_jobs_are_reported_so_after_one_call(launcher):
    launcher.cancel(["job0", "job1"])
    assert launcher.calls.made[-1] == ("scancel", "1_0", "1_1")
    answer(launcher, sacct="1_0|CANCELLED by 0|0:0|n1|7\n1_1|FAILED|75:0|n1|7\n")
    assert ends(launcher) == {"job0": CANCELLED, "job1": CANCELLED}


def test_what_is_cancelled_before_it_ran_leaves_no_record_and_is_not_waited_for(folder):
    launcher = SlurmLauncher(folder, settings(poll_min_s=0.01, poll_max_s=0.02, grace_s=0.05, lost_after_s=600))
    launcher.calls = launcher._submission.calls = Answers(sacct="", squeue="", scancel="")
    for number in (0, 1):
        folder.write_job(job(number, scheduler=f"1_{number}"))
    launcher.adopt([job(0, scheduler="1_0"), job(1, scheduler="1_1")])
    launcher.cancel(["job0"])
    assert ends(launcher, 3) == {"job0": CANCELLED}


def test_why_a_job_waits_is_known_between_two_questions_to_the_queue(launcher):
    answer(launcher, sacct="1_0|PENDING|0:0||0\n1_1|PENDING|0:0||0\n")
    answer(launcher, squeue="1_0|PENDING||QOSMaxJobsPerUserLimit\n1_1|PENDING||Priority\n")
    seen = []
    for _ in range(12):
        launcher._poll()
        states = json.loads((launcher._folder.jobs / "states.json").read_text())["jobs"]
        seen.append((states["job0"]["reason"], states["job1"]["reason"]))
    assert set(seen[1:]) == {("QOSMaxJobsPerUserLimit", "Priority")}
    asked = [call[0] for call in launcher.calls.made]
    assert asked.count("squeue") < asked.count("sacct")


def test_a_later_driver_adopts_jobs_with_numbers_and_cancels_orphaned_jobs(folder):
    launcher = SlurmLauncher(folder, settings(poll_min_s=0.01, poll_max_s=0.02))
    launcher.calls = launcher._submission.calls = Answers(
        sacct="1_0|RUNNING|0:0|n1|7\n", squeue="1_0|RUNNING|n1|None\n9_0|RUNNING|n1|None\n", scancel=""
    )
    known = job(0, scheduler="1_0")
    folder.write_job(known)
    launcher.calls.answers["squeue"] = "1_0\n9_0\n"
    assert launcher.adopt([known, job(1)]) == {"job0"}
    assert [call for call in launcher.calls.made if call[0] == "scancel"] == [("scancel", "9_0")]


# --- refusals ---


def refusing(monkeypatch, *messages: str | None) -> list[str]:
    """Submission fails with these messages in turn, then works; returns the scripts."""
    left, scripts = list(messages), []

    def submit(calls, text, keep):
        scripts.append(text)
        if left and (message := left.pop(0)):
            raise CallError(message)
        return str(100 + len(scripts))

    monkeypatch.setattr(submitit_adapter, "submit", submit)
    return scripts


def bare(folder, **values) -> SlurmLauncher:
    launcher = SlurmLauncher(folder, settings(poll_min_s=0.01, poll_max_s=0.02, **values))
    launcher.calls = launcher._submission.calls = Answers(squeue="", sacct="", scancel="")
    return launcher


def test_a_partition_that_there_is_not_stops_the_sweep(folder, monkeypatch):
    refusing(monkeypatch, "sbatch: error: invalid partition specified: lwo")
    with pytest.raises(StoppedError, match="invalid partition specified: lwo"):
        bare(folder).submit([job()])


def test_less_is_submitted_at_a_limit_and_the_rest_later(folder, monkeypatch):
    limit = "sbatch: error: AssocMaxSubmitJobLimit"
    scripts = refusing(monkeypatch, limit, limit, None, limit, limit)
    launcher = bare(folder)
    jobs = [job(number) for number in range(4)]
    for one in jobs:
        folder.write_job(one)
    assert launcher.submit(jobs) == {"job0": "103_0"}
    launcher._write_states()
    states = json.loads((folder.jobs / "states.json").read_text())["jobs"]
    assert states["job3"] == {"state": "HELD", "reason": limit, "node": "", "scheduler": None}
    launcher._poll()
    launcher._poll()
    assert {folder.read_job(f"job{number}").scheduler for number in range(1, 4)} > {None} or len(scripts) >= 6
    launcher._poll()
    assert folder.read_job("job3").scheduler is not None


def test_an_answer_that_was_lost_does_not_leave_two_of_a_job(folder, monkeypatch):
    refusing(monkeypatch, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    launcher = bare(folder)
    folder.write_job(job())
    assert launcher.submit([job()]) == {}
    launcher.calls.answers["squeue"] = "55_0\n"  # it was taken after all
    launcher._poll()
    assert ("scancel", "55_0") in launcher.calls.made
    assert folder.read_job("job0").scheduler == "102_0"


def test_no_more_run_than_may(folder, monkeypatch):
    scripts = refusing(monkeypatch)
    launcher = bare(folder, max_running=3)
    launcher._submission._limits = Limits(array=4)
    launcher.submit([job(number) for number in range(10)])
    assert [flag.rpartition("%")[2] for text in scripts for flag in flags(text) if "--array" in flag] == ["1", "1", "1"]
    launcher.submit([job(10)])
    assert len(scripts) == 3


def test_a_few_more_behind_a_long_queue_are_gathered_until_the_next_poll(folder, monkeypatch):
    scripts = refusing(monkeypatch)
    launcher = bare(folder)
    for number in range(70):
        folder.write_job(job(number))
    assert len(launcher.submit([job(number) for number in range(50)])) == 50
    launcher.calls.answers["squeue"] = "".join(f"101_{number}|PENDING||Priority\n" for number in range(50))
    launcher._poll()
    for number in range(50, 54):
        assert launcher.submit([job(number)]) == {}
    assert len(scripts) == 1
    assert json.loads((folder.jobs / "states.json").read_text())["jobs"].keys() == {f"job{n}" for n in range(50)}
    launcher._poll()
    assert [flag for flag in flags(scripts[1]) if "--array" in flag] == ["--array=0-3%4"]
    assert len(launcher.submit([job(number) for number in range(54, 70)])) == 16  # many are not kept waiting


def test_one_more_is_submitted_at_once_where_none_waits(folder, monkeypatch):
    scripts = refusing(monkeypatch)
    launcher = bare(folder)
    for number in range(51):
        folder.write_job(job(number))
    launcher.submit([job(number) for number in range(50)])
    launcher.calls.answers["squeue"] = "".join(f"101_{number}|RUNNING|n1|None\n" for number in range(50))
    launcher._poll()
    assert launcher.submit([job(50)]) == {"job50": "102_0"}
    assert len(scripts) == 2


# --- nodes ---


def test_a_node_that_fails_fast_is_excluded_once_others_work(folder):
    nodes = NodeExclusion(fast_s=60, after=3, at_most=1)
    for _ in range(3):
        nodes.record_failure("n3", 5, "FAILED")
    assert nodes.excluded == {}  # perhaps the jobs are at fault
    nodes.record_success("n1")
    assert list(nodes.excluded) == ["n3"]
    assert "--exclude=n3" in flags(script(folder, settings(), exclude=tuple(nodes.excluded)))


@pytest.mark.parametrize("fault", ["slow", "recovers", "too many"])
def test_a_node_is_not_excluded_without_reason(fault):
    nodes = NodeExclusion(fast_s=60, after=2, at_most=0 if fault == "too many" else 4)
    nodes.record_success("n1")
    nodes.record_failure("n3", 5, "FAILED")
    if fault == "recovers":
        nodes.record_success("n3")
    nodes.record_failure("n3", 600 if fault == "slow" else 5, "FAILED")
    assert nodes.excluded == {}


def test_the_next_driver_knows_which_nodes_are_excluded(folder):
    first = bare(folder)
    first._nodes.excluded["n3"] = "it failed"
    first.close()
    assert bare(folder)._nodes.excluded == {"n3": "it failed"}


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (
            "sbatch: error: AssocMaxSubmitJobLimit sbatch: error: Job violates accounting/QOS policy",
            1,
        ),
        (
            "sbatch: error: QOSMaxWallDurationPerJobLimit sbatch: error: Job violates accounting/QOS policy",
            0,
        ),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)", 1),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", 0),
    ],
)
def test_too_many_jobs_are_told_from_a_job_that_asks_for_too_much(message, limit):
    assert at_limit(message) == bool(limit)
