"""Statistics used by every fit: priors, linear normal model, quantiles."""
