"""Reads the command line in nanoGPT's way: a file of settings is executed, --key=value replaces a setting."""

import sys
from ast import literal_eval
from pathlib import Path

for argument in sys.argv[1:]:
    if not argument.startswith("--"):
        exec(Path(argument).read_text())
        continue
    key, _, text = argument[2:].partition("=")
    if key not in globals():
        raise ValueError(f"Unknown config key: {key}")
    try:
        value = literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    assert type(value) is type(globals()[key]), f"{key} must be like {globals()[key]!r}, got {value!r}"
    globals()[key] = value
