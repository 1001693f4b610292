"""A training script as people have them: one file, its own arguments. Two lines of it know of hptransfer.

    python examples/plain_trainer.py --width 64 --lr 0.01

A network with one hidden layer learns what a fixed random one says of random points; numpy, Adam, a second. It saves
where it is every 100 steps and when it is asked to end, and goes on from there: in a sweep HPTRANSFER_TRIAL_DIR is the
same folder on the next attempt.
"""

import argparse
import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np

import hptransfer  # 1

INPUTS = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    checkpoint = Path(os.environ.get("HPTRANSFER_TRIAL_DIR", "."), "checkpoint.pickle")
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))

    teacher = weights(np.random.default_rng(0), 32)
    model = weights(np.random.default_rng(1 + args.seed), args.width)
    state = {"step": 0, "model": model, "first": zeros(model), "second": zeros(model)}
    if "HPTRANSFER_TRIAL_DIR" in os.environ and checkpoint.exists():
        state = pickle.loads(checkpoint.read_bytes())
    while state["step"] < args.steps:
        step = state["step"] = state["step"] + 1
        points = np.random.default_rng([step, args.seed]).standard_normal((args.batch, INPUTS))
        loss, gradients = loss_and_gradients(state["model"], points, forward(teacher, points)[1])
        update(state, gradients, args.lr * (1 - (step - 1) / args.steps))
        if step % 10 == 0:
            print(f"step {step} loss {loss:.5f}", flush=True)
            hptransfer.report(step=step, loss=loss)  # 2
        if "HPTRANSFER_TRIAL_DIR" in os.environ and (asked or step % 100 == 0):
            checkpoint.with_suffix(".new").write_bytes(pickle.dumps(state))
            checkpoint.with_suffix(".new").replace(checkpoint)
        if asked:
            sys.exit(1)
    checkpoint.unlink(missing_ok=True)


def weights(random: np.random.Generator, width: int) -> list[np.ndarray]:
    return [random.standard_normal((INPUTS, width)) / INPUTS**0.5, random.standard_normal((width, 1)) / width**0.5]


def zeros(model: list[np.ndarray]) -> list[np.ndarray]:
    return [np.zeros_like(weight) for weight in model]


def forward(model: list[np.ndarray], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.tanh(points @ model[0])
    return hidden, hidden @ model[1]


def loss_and_gradients(
    model: list[np.ndarray], points: np.ndarray, labels: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    hidden, answers = forward(model, points)
    errors = answers - labels
    back = 2 * errors / len(points)
    inner = points.T @ (back @ model[1].T * (1 - hidden**2))
    return float(np.mean(errors**2)), [inner, hidden.T @ back]


def update(state: dict, gradients: list[np.ndarray], lr: float) -> None:
    """One step of Adam."""
    for k, gradient in enumerate(gradients):
        state["first"][k] = 0.9 * state["first"][k] + 0.1 * gradient
        state["second"][k] = 0.95 * state["second"][k] + 0.05 * gradient**2
        first = state["first"][k] / (1 - 0.9 ** state["step"])
        second = state["second"][k] / (1 - 0.95 ** state["step"])
        state["model"][k] -= lr * first / (np.sqrt(second) + 1e-8)


if __name__ == "__main__":
    main()
