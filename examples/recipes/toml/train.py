"""A trainer that takes one file, TOML or YAML, as torchtitan does. Two lines of it are for a sweep.

python examples/recipes/toml/train.py --job.config_file settings.toml
"""

import argparse
import pickle
import tomllib
from pathlib import Path

import numpy as np
import yaml

import hptransfer  # 1


def forward(weights, points):
    hidden = np.tanh(points @ weights[0])
    return hidden, hidden @ weights[1]


def random_weights(generator, width):
    return [generator.standard_normal((16, width)) / 4, generator.standard_normal((width, 1)) / width**0.5]


parser = argparse.ArgumentParser()
parser.add_argument("--job.config_file", type=Path, required=True, dest="path")
path = parser.parse_args().path
config = (tomllib.loads if path.suffix == ".toml" else yaml.safe_load)(path.read_text())
training, checkpoint = config["training"], Path(config["checkpoint"]["folder"], "state.pkl")
weights = random_weights(np.random.default_rng(1 + training["seed"]), config["model"]["width"])
state = {"step": 0, "weights": weights, "moments": [[np.zeros_like(weight) for weight in weights] for _ in range(2)]}
if config["checkpoint"]["enable"] and checkpoint.exists():
    state = pickle.loads(checkpoint.read_bytes())
weights, (first, second) = state["weights"], state["moments"]
teacher = random_weights(np.random.default_rng(0), 32)
while state["step"] < training["steps"]:
    step = state["step"] = state["step"] + 1
    points = np.random.default_rng([training["seed"], step]).standard_normal((training["batch_size"], 16))
    hidden, outputs = forward(weights, points)
    errors = outputs - forward(teacher, points)[1]
    inner = points.T @ (errors @ weights[1].T * (1 - hidden**2))
    lr = config["optimizer"]["lr"] * (1 - (step - 1) / training["steps"])
    for k, gradient in enumerate((2 * inner / len(points), 2 * hidden.T @ errors / len(points))):
        first[k] += 0.1 * (gradient - first[k])
        second[k] += 0.05 * (gradient**2 - second[k])
        weights[k] -= lr * first[k] / (1 - 0.9**step) / (np.sqrt(second[k] / (1 - 0.95**step)) + 1e-8)
    if step % 10 == 0:
        hptransfer.report(step=step, loss=np.mean(errors**2))  # 2
    if config["checkpoint"]["enable"] and step % config["checkpoint"]["interval"] == 0:
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.with_suffix(".new").write_bytes(pickle.dumps(state))
        checkpoint.with_suffix(".new").replace(checkpoint)
