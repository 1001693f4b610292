"""All trials under Ray Tune, one core each: python ray_tune.py FOLDER CORES."""

import json
import sys
import tempfile
from pathlib import Path

import ray
from ray import tune
from train import run

folder, cores = sys.argv[1], int(sys.argv[2])
trials = json.loads(Path(folder, "trials.json").read_text())


def trainable(config: dict) -> None:
    tune.report({"loss": run(*config["trial"], folder)})


with tempfile.TemporaryDirectory(prefix="ray-") as place:  # a short path: Ray's sockets are below it
    ray.init(address="local", num_cpus=cores, include_dashboard=False, _temp_dir=place)
    try:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"trial": tune.grid_search(trials)},
            run_config=tune.RunConfig(storage_path=str(Path(folder, "ray").resolve()), name="tune"),
        )
        tuner.fit()
    finally:
        ray.shutdown()
