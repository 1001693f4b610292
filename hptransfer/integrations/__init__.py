"""Callbacks for trainers of other packages, each of which is imported with its module alone."""
