"""All trials in one process under Optuna with n_jobs.

python optuna_threads.py FOLDER JOBS
"""

import json
import sys
from pathlib import Path

import optuna
from train import run

folder, jobs = sys.argv[1], int(sys.argv[2])
trials = json.loads(Path(folder, "trials.json").read_text())
names = ("width", "depth", "tokens", "lr")
space = {name: sorted(set(values)) for name, values in zip(names, zip(*trials, strict=True), strict=True)}


def objective(trial: optuna.Trial) -> float:
    return run(**{name: trial.suggest_categorical(name, values) for name, values in space.items()}, folder=folder)


study = optuna.create_study(sampler=optuna.samplers.GridSampler(space, seed=0))
study.optimize(objective, n_trials=len(trials), n_jobs=jobs)
