"""The verbs of the command line, by family. Each imports what it needs when it is called.

sweeps      plan, sweep, verify: what needs a sweep's configuration
runs        status, cancel, retry, logs, export, clean: what reads or changes a run's folder
analyses    analyze: a run, or a table of runs made anywhere
checks      coord-check
starting    init, import, list: what a sweep begins with
"""
