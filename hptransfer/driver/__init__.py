"""Driver: trials become jobs, jobs become outcomes."""
