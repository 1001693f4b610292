"""Samplers: which values of the tuned hyperparameter a scale tries. One file each."""
