"""A trainer in the way of nanoGPT, without any code for hptransfer: settings are globals, losses are printed.

python examples/recipes/nanogpt/train.py --n_embd=64 --learning_rate=0.01
"""

import pickle
from pathlib import Path

import numpy as np

out_dir = "out"
init_from = "scratch"  # or 'resume'
eval_interval = 100
n_embd = 64
batch_size = 64
learning_rate = 6e-3
beta2 = 0.95
max_iters = 300
seed = 1337
exec(Path(__file__).with_name("configurator.py").read_text())  # overrides from command line or config file


def forward(weights, points):
    hidden = np.tanh(points @ weights[0])
    return hidden, hidden @ weights[1]


def random_weights(generator, width):
    return [generator.standard_normal((16, width)) / 4, generator.standard_normal((width, 1)) / width**0.5]


teacher = random_weights(np.random.default_rng(0), 32)
held_out = np.random.default_rng([0, 0]).standard_normal((1024, 16))
if init_from == "resume":
    checkpoint = pickle.loads((Path(out_dir) / "ckpt.pkl").read_bytes())
else:
    weights = random_weights(np.random.default_rng(1 + seed), n_embd)
    moments = [[np.zeros_like(weight) for weight in weights] for _ in range(2)]
    checkpoint = {"weights": weights, "moments": moments, "iter_num": 0, "train_loss": float("nan")}
weights, (first, second) = checkpoint["weights"], checkpoint["moments"]
for iter_num in range(checkpoint["iter_num"], max_iters + 1):
    if iter_num % eval_interval == 0:
        val_loss = np.mean((forward(weights, held_out)[1] - forward(teacher, held_out)[1]) ** 2)
        print(f"step {iter_num}: train loss {checkpoint['train_loss']:.6f}, val loss {val_loss:.6f}", flush=True)
        Path(out_dir).mkdir(exist_ok=True)
        unfinished = Path(out_dir) / "ckpt.new"
        unfinished.write_bytes(pickle.dumps({**checkpoint, "iter_num": iter_num}))
        unfinished.replace(Path(out_dir) / "ckpt.pkl")
    points = np.random.default_rng([seed, iter_num]).standard_normal((batch_size, 16))
    hidden, outputs = forward(weights, points)
    errors = outputs - forward(teacher, points)[1]
    inner = points.T @ (errors @ weights[1].T * (1 - hidden**2))
    for k, gradient in enumerate((2 * inner / batch_size, 2 * hidden.T @ errors / batch_size)):
        first[k] += 0.1 * (gradient - first[k])
        second[k] += (1 - beta2) * (gradient**2 - second[k])
        lr = learning_rate * (1 - iter_num / (max_iters + 1))
        weights[k] -= lr * first[k] / (np.sqrt(second[k] / (1 - beta2 ** (iter_num + 1))) + 1e-8)
    checkpoint["train_loss"] = np.mean(errors**2)
