"""Checks of a running sweep: equal failures, and trials that may hang."""
