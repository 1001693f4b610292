"""Estimators: how the optimum of every scale is read off its runs. One file each."""
