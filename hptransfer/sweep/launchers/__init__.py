"""Launchers: where jobs run. One file each."""
