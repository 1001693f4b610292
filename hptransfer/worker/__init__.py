"""Worker: the program that a job executes, on this machine or a cluster."""
