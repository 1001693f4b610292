"""The statistics below every fit: priors, the linear normal model, quantiles."""
