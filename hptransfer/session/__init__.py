"""Open run folders: signals, snapshots, tracker, notifications and requests."""
