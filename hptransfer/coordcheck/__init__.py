"""Coordinate checks: measurements of what a parameterization keeps independent of size."""
