"""What a job executes, on this machine or on a cluster."""
