"""The driver: trials become jobs, jobs become outcomes."""
