"""Optima of the scales: run selection, response surface, estimators."""
