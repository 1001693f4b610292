"""Tables of runs: sources, columns, checks, arrays."""
