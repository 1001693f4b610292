"""Callbacks for trainers of other packages.

A package is imported with its own module alone.
"""
