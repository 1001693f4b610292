"""A trial of several nodes: torchrun as one task a node of the allocation, and its processes meet."""

import subprocess
import sys
from pathlib import Path

import pytest

from hptransfer.config.compose import compose
from hptransfer.core.io import read_json, read_jsonl, write_json
from hptransfer.core.run_folder import RunFolder
from hptransfer.planning.plan import make_plan
from hptransfer.worker.runners import StackContext
from hptransfer.worker.runners.script.runner import ScriptRunner
from tests.slurm.cluster import Cluster
from tests.support.helpers import ROOT, environment

pytestmark = pytest.mark.slurm

TRAINER = ROOT / "examples" / "ddp_trainer.yaml"


def train(runs: str) -> None:
    """What a worker does, in an allocation's first node."""
    plan = make_plan(compose(str(TRAINER), [f"runs={runs}", "run.processes=1"]))
    folder = plan.config.folder
    folder.create()
    trial = plan.trial(plan.scales[0], {"lr": 0.03}, 0)
    folder.write_trial(trial)
    context = StackContext("job", 1, 0, folder.jobs / "job.checkpoint", 300, lambda: None)
    ScriptRunner().execute([trial], folder, lambda t, o: write_json(folder.outcome_path(t.id), o.to_json()), context)


@pytest.mark.slow
def test_torchrun_meets_across_two_nodes(slurm: Cluster, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
    code = f"from tests.slurm.test_script_nodes import train; train({str(tmp_path)!r})"
    options = ("--wait", "--nodes=2", "--time=5", f"--chdir={ROOT}", f"--output={tmp_path / 'log'}")
    done = subprocess.run(
        ["sbatch", *options, f'--wrap=python -c "{code}"'],
        env={**slurm.environment, "PATH": path, "PYTHONPATH": environment()["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0, done.stderr + log
    folder = RunFolder(tmp_path / "ddp-trainer")
    (trial,) = folder.read_trials()
    outcome = read_json(folder.outcome_path(trial.id))
    assert outcome["state"] == "done", outcome["error"]
    assert [point["processes"] for point in read_jsonl(folder.curve_path(trial.id))] == [2.0] * 10
