"""Checks of a sweep while it runs: trials that fail alike, and trials that may hang."""
