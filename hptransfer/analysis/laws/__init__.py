"""From optima to a fit: forms of law, model averaging, exponents, the loss law."""
