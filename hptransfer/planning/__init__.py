"""A sweep file becomes scales, settings, trials and their cost. Starts nothing."""
