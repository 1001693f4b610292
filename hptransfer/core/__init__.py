"""The words of the package: errors, registries, records and the run folder. Standard library only."""
