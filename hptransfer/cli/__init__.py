"""Command line: `main`, and one module for each group of verbs."""
