"""Trackers: where a sweep can be watched and compared. One file each."""
