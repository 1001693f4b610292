"""Errors, records and the run folder, on the standard library alone."""
