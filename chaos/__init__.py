"""Kill, stop and freeze processes at random, then check that no task was lost."""
