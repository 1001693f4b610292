"""The builtin trainer: stacks of small models that differ in hyperparameters and seeds only."""
