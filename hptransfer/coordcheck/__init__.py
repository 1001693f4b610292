"""Coordinate checks: quantities that a parameterization keeps independent of size, measured."""
