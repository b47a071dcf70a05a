"""The files that `vibetuner new` writes and `vibetuner destroy` removes, all or nothing."""
