"""Configuration: the schema of a sweep file, and its composition by Hydra."""
