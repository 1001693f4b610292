"""Builtin trainer of stacks of small models.

The models of a stack differ only in hyperparameters and seeds.
"""
