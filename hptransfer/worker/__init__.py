"""Worker: the program of a job, on this machine or a cluster."""
