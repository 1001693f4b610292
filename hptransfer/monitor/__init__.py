"""Display of a run's state, its logs, and cleanup."""
