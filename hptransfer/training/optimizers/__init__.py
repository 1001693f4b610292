"""Optimizers of the builtin trainer. One file each; the file's name is the optimizer's."""
