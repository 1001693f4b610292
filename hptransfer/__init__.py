"""hptransfer: find a large model's hyperparameters by sweeping small proxies."""

__version__ = "0.1.0"
