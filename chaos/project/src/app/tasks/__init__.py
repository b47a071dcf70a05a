"""One task for each way to behave."""
