"""Predictions of a fit: targets, validation, next runs, published laws, warnings."""
