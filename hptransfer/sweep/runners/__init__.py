"""Runners: what trains a trial. One file each."""
