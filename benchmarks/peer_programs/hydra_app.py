"""Trials as jobs of Hydra, one trial each.

python hydra_app.py --multirun +width=... +depth=... +tokens=... +lr=... +folder=...
"""

import hydra
from omegaconf import DictConfig
from train import run


@hydra.main(version_base="1.3", config_path=None)
def main(config: DictConfig) -> float:
    return run(config.width, config.depth, config.tokens, config.lr, config.folder)


main()
