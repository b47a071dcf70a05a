"""The tasks of a run, one for each behaviour."""
