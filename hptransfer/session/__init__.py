"""An open run folder: signals, snapshot, tracker, notifications, and requests from other shells."""
