"""What can be written in a sweep file, and how Hydra composes it."""
