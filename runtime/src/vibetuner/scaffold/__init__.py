"""What `vibetuner new` and `vibetuner destroy` write: names, templates, edits, all or nothing."""
