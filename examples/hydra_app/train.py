"""A trainer that is itself a Hydra application, and knows nothing of hptransfer: its loss is read off what it prints.

python examples/hydra_app/train.py model.width=64 optimizer.lr=0.01
"""

import logging

import hydra
import numpy as np
from omegaconf import DictConfig

log = logging.getLogger(__name__)


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    random = np.random.default_rng(config.seed)
    inputs, width = 16, config.model.width
    teacher = np.random.default_rng(0).standard_normal((inputs, 1)) / inputs**0.5
    features = random.standard_normal((inputs, width)) / inputs**0.5
    readout = np.zeros((width, 1))
    for step in range(1, config.steps + 1):
        points = random.standard_normal((32, inputs))
        hidden = np.tanh(points @ features)
        errors = hidden @ readout - np.tanh(points @ teacher)
        lr = config.optimizer.lr * (1 - step / config.steps)
        readout -= lr * np.sign(hidden.T @ errors)
        if step % 10 == 0:
            log.info("step %d loss %.5f", step, np.mean(errors**2))


if __name__ == "__main__":
    main()
