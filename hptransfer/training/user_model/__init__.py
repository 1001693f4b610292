"""Parameterization of a user's own nn.Module: `parameterize`."""
