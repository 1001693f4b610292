"""Parameterizations: how init, multipliers and learning rates move with width. One file each."""
