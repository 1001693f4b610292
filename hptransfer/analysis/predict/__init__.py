"""From a fit to predictions: targets, validation, next runs, published laws, data warnings."""
