"""The state of a run, for people: status, progress tables, logs, cleanup."""
