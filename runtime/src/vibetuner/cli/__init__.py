"""The doors: what a person or a process manager starts."""
