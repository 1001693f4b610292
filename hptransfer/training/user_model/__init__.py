"""Anybody's nn.Module: `parameterize` and `coord_check`."""
